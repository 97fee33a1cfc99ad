"""Forwards a local port to the TensorBoard of a job."""

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
    """A running `kubectl port-forward`.

    Attributes:
      address: The address of TensorBoard on this machine.
    """

    def __init__(self, address: str, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self.address = address
        self._process, self._errors = process, errors

    def check(self) -> None:
        """Raises ClusterError if kubectl has exited."""
        if self._process.poll() is not None:
            self._errors.seek(0)
            said = self._errors.read().strip() or f"exit code {self._process.returncode}"
            raise ClusterError(f"kubectl port-forward has exited: {said}. Try again")

    def wait(self) -> int:
        """Waits until kubectl exits, which is an error: only Ctrl-C should stop it."""
        self._process.wait()
        self.check()
        return 0


@contextmanager
def forward(name: str, namespace: str | None, host: str, port: int | None) -> Iterator[Tunnel]:
    """Forwards the port until the context ends.

    Args:
      name: The name of the job.
      namespace: The namespace of the job; None is that of the kubectl context.
      host: The local address to listen on.
      port: The local port; None selects the first free one from 6006 on.

    Raises:
      SettingsError: There is no kubectl, no such job, no TensorBoard for it, or no free port.
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
    """Waits for the pod: kubectl refuses one that is not running, without saying why."""
    if cluster.get("Service", f"{name}-board") is None:
        read_job(cluster, name)
        raise SettingsError(
            f"job {name} was submitted without --tensorboard: there is no service {name}-board. "
            f"Run `vit delete {name}`, then the `vit submit` command with --tensorboard, which "
            "continues its run"
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
        "with --host, or another port with --port"
    )
