"""A port of this machine that leads to a job's TensorBoard."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO

from k8s.api import ClusterApi
from k8s.api_errors import ClusterError
from k8s.state import read_job, why_pending
from pipeline.errors import SettingsError

_FIRST_PORT, _PORTS = 6006, 100
_READY_WITHIN_S = 60.0


class Tunnel:
    """A `kubectl port-forward` that runs.

    Attributes:
      address: Of TensorBoard, here.
    """

    def __init__(self, address: str, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self.address = address
        self._process, self._errors = process, errors

    def check(self) -> None:
        """Raises ClusterError where kubectl has ended."""
        if self._process.poll() is not None:
            self._errors.seek(0)
            said = self._errors.read().strip() or f"exit code {self._process.returncode}"
            raise ClusterError(f"kubectl port-forward has ended: {said}. Try again")

    def wait(self) -> int:
        """Until it ends, which is an error: it is for Ctrl-C to end it."""
        self._process.wait()
        self.check()
        return 0


@contextmanager
def forward(name: str, namespace: str | None, host: str, port: int | None) -> Iterator[Tunnel]:
    """Forwards while the context lasts.

    Args:
      name: Of the job.
      host: Address of this machine to listen on.
      port: Default: the first free one from 6006 on.

    Raises:
      SettingsError: There is no kubectl, no such job, no TensorBoard beside it, or no such port.
      ClusterError: TensorBoard does not start.
    """
    if shutil.which("kubectl") is None:
        raise SettingsError(
            "--kubernetes needs kubectl on the PATH: https://kubernetes.io/docs/tasks/tools/"
        )
    port = _free_port(host, port)
    cluster = ClusterApi(namespace)
    _wait_until_ready(cluster, name)
    command = ["kubectl", "port-forward", "-n", cluster.namespace, "--address", host]
    command += [f"service/{name}-board", f"{port}:6006"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, text=True
        )
        try:
            yield Tunnel(f"http://{host}:{port}/", process, errors)
        finally:
            process.terminate()
            process.wait()


def _wait_until_ready(cluster: ClusterApi, name: str) -> None:
    """kubectl takes no pod that is not running, and does not say why it is not."""
    if cluster.get("Service", f"{name}-board") is None:
        read_job(cluster, name)
        raise SettingsError(
            f"job {name} was submitted without --tensorboard: there is no service {name}-board. "
            f"`vit delete {name}`, then the `vit submit` command with --tensorboard, which goes on "
            "with its run"
        )
    deadline_s = time.monotonic() + _READY_WITHIN_S
    while True:
        pods = cluster.list("Pod", labels=f"app.kubernetes.io/instance={name}-board")
        conditions = [c for pod in pods for c in pod["status"].get("conditions") or []]
        if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
            return
        why = next((why for pod in pods if (why := why_pending(cluster, pod))), "")
        if time.monotonic() > deadline_s:
            raise ClusterError(f"the TensorBoard of {name} does not start: {why or 'no reason'}")
        time.sleep(1.0)


def _free_port(host: str, port: int | None) -> int:
    ports = range(_FIRST_PORT, _FIRST_PORT + _PORTS) if port is None else [port]
    why: OSError | None = None
    for candidate in ports:
        try:
            with closing(socket.create_server((host, candidate))):
                return candidate
        except OSError as error:
            why = error
    raise SettingsError(
        f"cannot listen on {host}, port {ports[0]}: {why and why.strerror}. Choose another address "
        "with --host, another port with --port"
    )
