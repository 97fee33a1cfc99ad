"""`vit mpi-launch --run FOLDER -- COMMAND...`: what the launcher of an MPIJob runs.

horovodrun alone ends with 1 whatever failed, and kills its ranks 5 seconds after a SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import PeerLost, SettingsError, Stopped
from pipeline.runs.lock import RunLock
from pipeline.runtimes.stop_signals import stop_signals
from pipeline.storage.limits import HOSTFILE_BYTES, OUTCOME_BYTES
from pipeline.storage.read import read_file, reason
from pipeline.storage.write import replace_file

PARSES_IN_ORDER = True

_TICK_S = 0.5
_KILL_AFTER_S = 10.0
_WORKERS_WITHIN_S = 300.0
_NOT_BEGUN = "stopped before the training began. Give the same command to start it"
# The MPI operator sets it to where it has mounted the list of workers.
_HOSTFILE = "OMPI_MCA_orte_default_hostfile"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="FOLDER", help="the run folder of COMMAND")
    add(
        "--hostfile",
        type=Path,
        help=f"lines of `HOST slots=N` (default: ${_HOSTFILE}, or /etc/mpi/hostfile)",
    )
    add("--ssh-port", type=int, default=2222, help="of the workers' sshd (default: 2222)")
    add(
        "--grace-s",
        type=float,
        default=60.0,
        help="after a signal, end what has not ended by then (default: 60)",
    )
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="what to run")
    parser.epilog = (
        "A signal becomes a file `stop` in the run folder, on which the run saves and ends. The "
        "exit code is that of outcome.json there, or horovodrun's where the run wrote none."
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs horovodrun over the job's workers, and ends as the run did."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise SettingsError("what shall be started? Add a command, as in ... -- vit train digits")
    slots = read_hostfile(arguments.hostfile or _default_hostfile(os.environ))
    hosts = ",".join(f"{host}:{count}" for host, count in slots.items())
    processes = str(sum(slots.values()))
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in stop_signals():
        signal.signal(number, receive)
    _wait_for_workers(slots, arguments.ssh_port, received)
    _wait_for_lock(arguments.run, arguments.grace_s, received)
    if received:
        raise Stopped(_NOT_BEGUN)
    before = _outcome(arguments.run)
    code = _wait(
        # In a session of its own: Ctrl-C is for this process to pass on.
        subprocess.Popen(
            [_horovodrun(), "--gloo", "-np", processes, "-H", hosts, *command],
            start_new_session=True,
            # horovodrun imports TensorFlow itself, whose notes would come before the ranks' lines.
            env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
        ),
        arguments.run / "stop",
        received,
        arguments.grace_s,
    )
    after = _outcome(arguments.run)
    if after is not None and after != before:
        return _code_of(after[1])
    if received:
        raise Stopped(_NOT_BEGUN)
    return code


def read_hostfile(file: Path) -> dict[str, int]:
    """Processes by worker, of Open MPI's hostfile as the operator writes it.

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
    for host, *facts in filter(None, lines):
        count = next((m[1] for f in facts if (m := re.fullmatch(r"slots=([1-9]\d*)", f))), "1")
        found[host] = int(count)
    if not found:
        raise SettingsError(f"the hostfile {file} names no worker: lines must be HOST slots=N")
    return found


def _wait_for_workers(hosts: Iterable[str], port: int, received: Sequence[int]) -> None:
    """Returns when each worker's sshd answers, or at a signal.

    The operator waits for them only before the first launcher, not after the job was suspended.

    Raises:
      PeerLost: One does not answer in time.
    """
    deadline_s = time.monotonic() + _WORKERS_WITHIN_S
    for host in hosts:
        while not received:
            try:
                with socket.create_connection((host, port), timeout=5):
                    break
            except OSError as error:
                if time.monotonic() > deadline_s:
                    raise PeerLost(f"no sshd answers on {host}: {error}") from None
                time.sleep(_TICK_S)


def _wait_for_lock(run: Path, grace_s: float, received: Sequence[int]) -> None:
    """Returns when nobody trains in the run folder, at a signal, or after `grace_s`.

    The launcher before this one may still be ending its ranks.
    """
    deadline_s = time.monotonic() + grace_s
    while run.is_dir() and not received and time.monotonic() < deadline_s:
        if RunLock(run).find_holder() is None:
            return
        time.sleep(_TICK_S)


def _default_hostfile(environment: Mapping[str, str]) -> Path:
    return Path(environment.get(_HOSTFILE, "/etc/mpi/hostfile"))


def _horovodrun() -> str:
    program = shutil.which("horovodrun")
    if program is None:
        raise SettingsError(
            "horovodrun is not found: the image must have Horovod, as `make image` builds it"
        )
    return program


def _wait(
    process: subprocess.Popen[bytes], stop_file: Path, received: list[int], grace_s: float
) -> int:
    """Returns horovodrun's exit code; after a signal asks the run to stop, and ends it in time."""
    stop_at_s: float | None = None
    while process.poll() is None:
        time.sleep(_TICK_S)
        if not received:
            continue
        now_s = time.monotonic()
        stop_at_s = now_s + grace_s if stop_at_s is None else stop_at_s
        if now_s < stop_at_s:
            # Again and again: a run that begins just now takes an old file away. Where there is no
            # run folder yet, there is nothing to save.
            with suppress(OSError):
                replace_file(stop_file, b"")
        elif now_s < stop_at_s + _KILL_AFTER_S:
            process.terminate()
        else:
            process.kill()
    return process.returncode


def _outcome(run: Path) -> tuple[int, dict[str, Any]] | None:
    """When outcome.json was written, in ns, and what it says; None where it cannot be read."""
    file = run / "outcome.json"
    try:
        return file.stat().st_mtime_ns, json.loads(read_file(file, limit_bytes=OUTCOME_BYTES))
    except (OSError, ValueError):
        return None


def _code_of(outcome: dict[str, Any]) -> int:
    if outcome["outcome"] == "done":
        return 0
    print(f"vit mpi-launch: {outcome['message']}", file=sys.stderr)
    return int(outcome["exit_code"])
