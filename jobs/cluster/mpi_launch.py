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
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import SettingsError, Stopped

PARSES_IN_ORDER = True

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_TICK_S = 0.5
_KILL_AFTER_S = 10.0
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

    for number in _SIGNALS:
        signal.signal(number, receive)
    before = _outcome(arguments.run)
    code = _wait(
        # In a session of its own: Ctrl-C is for this process to pass on.
        subprocess.Popen(
            [_horovodrun(), "--gloo", "-np", processes, "-H", hosts, *command],
            start_new_session=True,
        ),
        arguments.run / "stop",
        received,
        arguments.grace_s,
    )
    after = _outcome(arguments.run)
    if after is not None and after != before:
        return _code_of(after[1])
    if received:
        raise Stopped("stopped before the training began. Give the same command to start it")
    return code


def read_hostfile(file: Path) -> dict[str, int]:
    """Processes by worker, of Open MPI's hostfile as the operator writes it.

    Raises:
      SettingsError: It cannot be read, or names no worker.
    """
    try:
        lines = [line.partition("#")[0].split() for line in file.read_text().splitlines()]
    except OSError as error:
        raise SettingsError(f"cannot read the hostfile {file}: {error.strerror}") from None
    found = {}
    for host, *facts in filter(None, lines):
        count = next((m[1] for f in facts if (m := re.fullmatch(r"slots=([1-9]\d*)", f))), "1")
        found[host] = int(count)
    if not found:
        raise SettingsError(f"the hostfile {file} names no worker: lines must be HOST slots=N")
    return found


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
                stop_file.touch()
        elif now_s < stop_at_s + _KILL_AFTER_S:
            process.terminate()
        else:
            process.kill()
    return process.returncode


def _outcome(run: Path) -> tuple[int, dict[str, Any]] | None:
    """When outcome.json was written, in ns, and what it says; None where it cannot be read."""
    file = run / "outcome.json"
    try:
        return file.stat().st_mtime_ns, json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def _code_of(outcome: dict[str, Any]) -> int:
    if outcome["outcome"] == "done":
        return 0
    print(f"vit mpi-launch: {outcome['message']}", file=sys.stderr)
    return int(outcome["exit_code"])
