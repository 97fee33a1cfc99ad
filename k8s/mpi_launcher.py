"""Runs horovodrun in the launcher pod of an MPIJob.

horovodrun alone exits with 1 whatever failed, and kills its ranks 5 seconds after a SIGTERM. Here
the run is asked to stop, and the exit code is the run's own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from k8s.answering_hosts import AnsweringHosts, interface_to
from pipeline.errors import PeerLost, SettingsError, Stopped
from pipeline.runs.lock import RunLock
from pipeline.runtimes.stop_signals import stop_signals
from pipeline.storage.limits import HOSTFILE_BYTES, OUTCOME_BYTES
from pipeline.storage.read import read_file, reason
from pipeline.storage.write import replace_file

# The MPI operator sets this variable to the path of the list of workers.
HOSTFILE_VARIABLE = "OMPI_MCA_orte_default_hostfile"
DEFAULT_HOSTFILE = "/etc/mpi/hostfile"

_POLL_S = 0.5
_ASK_S = 2.0  # between two connections to the sshd of each worker
_KILL_AFTER_S = 10.0
_WORKERS_TIMEOUT_S = 300.0
_EXCLUDED_S = (10, 30)  # The shortest and the longest time.
_NOT_STARTED = "stopped before the training started. Run the same command to start it"


def launch(
    command: Sequence[str],
    run: Path,
    hostfile: Path | None,
    ssh_port: int,
    grace_s: float,
    min_nodes: int | None = None,
) -> tuple[int, str]:
    """Runs a command on all workers; returns the exit code and a message.

    The exit code and the message are those of the run's `outcome.json`. If the run wrote none, they
    are horovodrun's exit code and "".

    Args:
      run: The run folder of the command.
      hostfile: The workers; by default the file that the MPI operator names.
      ssh_port: Port of the workers' sshd.
      grace_s: Time that the run has to exit after a signal.
      min_nodes: Makes the job elastic: it continues with this many workers, and others may join.
        None needs all workers.

    Raises:
      SettingsError: The hostfile is wrong, or there is no horovodrun.
      PeerLost: A worker does not answer, and the job is not elastic.
      Stopped: A signal arrived before the run started.
    """
    file = hostfile or _default_hostfile(os.environ)
    slots = read_hostfile(file)
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in stop_signals():
        signal.signal(number, receive)
    with ExitStack() as stack:
        if min_nodes is None:
            _wait_for_workers(slots, ssh_port, received)
            hosts = ",".join(f"{host}:{count}" for host, count in slots.items())
            options = ["-np", str(sum(slots.values())), "-H", hosts]
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-hosts-"))
            found = AnsweringHosts(lambda: read_hostfile(file), ssh_port, Path(folder))
            started = _wait_for_some(found, min_nodes, len(slots), received)
            options = _elastic_options(found.script, started, slots, min_nodes, ssh_port)
            stack.enter_context(found.updating())
        _wait_for_lock(run, slots, grace_s, received)
        if received:
            raise Stopped(_NOT_STARTED)
        before = _read_outcome(run)
        process = subprocess.Popen(
            [_find_horovodrun(), "--gloo", *options, *command],
            # In its own session, so that Ctrl-C reaches only this process, which forwards it.
            start_new_session=True,
            # horovodrun imports TensorFlow, whose messages would appear before the ranks' output.
            env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
        )
        code = _wait(process, run / "stop", received, grace_s)
    after = _read_outcome(run)
    if after is not None and after != before:
        outcome = after[1]
        if outcome["outcome"] == "done":
            return 0, ""
        return int(outcome["exit_code"]), str(outcome["message"])
    if received:
        raise Stopped(_NOT_STARTED)
    return code, ""


def read_hostfile(file: Path) -> dict[str, int]:
    """Returns the number of processes of each worker, from a hostfile in Open MPI's format.

    Raises:
      SettingsError: It cannot be read, or names no worker.
    """
    try:
        text = read_file(file, limit_bytes=HOSTFILE_BYTES).decode()
        lines = [line.partition("#")[0].split() for line in text.splitlines()]
    except OSError as error:
        raise SettingsError(f"cannot read the hostfile {file}: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"the hostfile {file} is not UTF-8: {error}") from None
    found = {}
    for host, *options in filter(None, lines):
        count = next((m[1] for o in options if (m := re.fullmatch(r"slots=([1-9]\d*)", o))), "1")
        found[host] = int(count)
    if not found:
        raise SettingsError(f"the hostfile {file} names no worker: lines must be HOST slots=N")
    return found


def _default_hostfile(environment: Mapping[str, str]) -> Path:
    return Path(environment.get(HOSTFILE_VARIABLE, DEFAULT_HOSTFILE))


def _wait_for_workers(hosts: Iterable[str], port: int, received: Sequence[int]) -> None:
    """Returns when the sshd of each worker answers, or after a signal.

    The operator waits for the workers only before it creates the first launcher, not after the job
    was suspended.

    Raises:
      PeerLost: A worker does not answer in time.
    """
    deadline_s = time.monotonic() + _WORKERS_TIMEOUT_S
    for host in hosts:
        while not received:
            try:
                with socket.create_connection((host, port), timeout=5):
                    break
            except OSError as error:
                if time.monotonic() > deadline_s:
                    raise PeerLost(f"no sshd answers on {host}: {error}") from None
                time.sleep(_POLL_S)


def _wait_for_some(
    found: AnsweringHosts, min_nodes: int, nodes: int, received: Sequence[int]
) -> dict[str, int]:
    """Returns the workers that answer: all, or enough of them after 5 minutes.

    It waits for enough of them without a limit, because pods may wait for room in the cluster. The
    deadline of the MPIJob is the limit.
    """
    deadline_s = time.monotonic() + _WORKERS_TIMEOUT_S
    while not received:
        answering = found.update()
        if len(answering) == nodes:
            return answering
        if len(answering) >= min_nodes and time.monotonic() > deadline_s:
            return answering
        time.sleep(_ASK_S)
    raise Stopped(_NOT_STARTED)


def _elastic_options(
    script: Path, started: Mapping[str, int], slots: Mapping[str, int], min_nodes: int, port: int
) -> list[str]:
    """Returns the options of horovodrun for an elastic job.

    Args:
      script: Prints the hosts that are there.
      started: Number of processes of each worker that is there at the start.
      slots: The same for all workers.
      min_nodes: Number of workers with which the job continues.
      port: Port of the workers' sshd.
    """
    per_node = max(slots.values())
    options = ["-np", str(sum(started.values())), "--min-np", str(min_nodes * per_node)]
    options += ["--max-np", str(sum(slots.values())), "--host-discovery-script", str(script)]
    # Otherwise a host on which a process has failed would be excluded for ever.
    options += ["--blacklist-cooldown-range", *map(str, _EXCLUDED_S)]
    # Otherwise horovodrun would look for an interface that all hosts have, and need two hosts.
    if interface := interface_to(next(iter(started)), port):
        options += ["--network-interfaces", interface]
    return options


def _wait_for_lock(
    run: Path, workers: Iterable[str], grace_s: float, received: Sequence[int]
) -> None:
    """Returns when nobody trains in the run folder, after a signal, or after `grace_s`.

    The previous launcher may still be stopping its processes. If it was lost, they still train on
    the workers of this job, where nobody sees their output. Then they are asked to stop. A process
    on another host belongs to another job, which is left alone.
    """
    deadline_s = time.monotonic() + grace_s
    own = {host.partition(".")[0] for host in workers}
    lock = RunLock(run)
    while run.is_dir() and not received and time.monotonic() < deadline_s:
        if lock.find_holder() is None:
            return
        if lock.holder_host in own:
            with suppress(OSError):
                replace_file(run / "stop", b"")
        time.sleep(_POLL_S)


def _find_horovodrun() -> str:
    program = shutil.which("horovodrun")
    if program is None:
        raise SettingsError(
            "there is no horovodrun: the image must contain Horovod, as `make image` builds it"
        )
    return program


def _wait(
    process: subprocess.Popen[bytes], stop_file: Path, received: list[int], grace_s: float
) -> int:
    """Returns horovodrun's exit code. After a signal, asks the run to stop, and later kills it."""
    stop_at_s: float | None = None
    while process.poll() is None:
        time.sleep(_POLL_S)
        if not received:
            continue
        now_s = time.monotonic()
        stop_at_s = now_s + grace_s if stop_at_s is None else stop_at_s
        if now_s < stop_at_s:
            # Repeatedly, because a run that is just starting removes an old stop file. If there is
            # no run folder yet, there is nothing to save.
            with suppress(OSError):
                replace_file(stop_file, b"")
        elif now_s < stop_at_s + _KILL_AFTER_S:
            process.terminate()
        else:
            process.kill()
    return process.returncode


def _read_outcome(run: Path) -> tuple[int, dict[str, Any]] | None:
    """Returns the time of `outcome.json` in ns, and its content; None if it cannot be read."""
    file = run / "outcome.json"
    try:
        return file.stat().st_mtime_ns, json.loads(read_file(file, limit_bytes=OUTCOME_BYTES))
    except (OSError, ValueError):
        return None
