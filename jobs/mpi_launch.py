"""`vit mpi-launch --run FOLDER -- COMMAND...`: the command of an MPIJob's launcher pod."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from k8s.mpi_launcher import DEFAULT_HOSTFILE, HOSTFILE_VARIABLE, launch
from pipeline.errors import SettingsError

# COMMAND has options of its own, which must not be parsed here.
PARSES_IN_ORDER = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="FOLDER", help="the run folder of COMMAND")
    add(
        "--hostfile",
        type=Path,
        help=f"file with lines `HOST slots=N` (default: ${HOSTFILE_VARIABLE}, or "
        f"{DEFAULT_HOSTFILE})",
    )
    add("--ssh-port", type=int, default=2222, help="port of the workers' sshd (default: 2222)")
    add(
        "--min-nodes",
        type=int,
        metavar="N",
        help="let workers fail and join during training, and pause with fewer than this (default: "
        "all workers are needed)",
    )
    add(
        "--grace-s",
        type=float,
        default=60.0,
        help="time that the run has to exit after a signal, before it is killed (default: 60)",
    )
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="command to run")
    parser.epilog = (
        "On a signal, a file `stop` is written to the run folder, which makes the run save a "
        "checkpoint and exit. The exit code is that of outcome.json in the run folder, or "
        "horovodrun's if the run wrote none."
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs horovodrun on the job's workers, and returns the exit code of the run."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise SettingsError("no command to start: add one, such as ... -- vit train digits")
    if arguments.min_nodes is not None and arguments.min_nodes < 1:
        raise SettingsError(f"--min-nodes must be at least 1. Received: {arguments.min_nodes}")
    code, message = launch(
        command,
        arguments.run,
        arguments.hostfile,
        arguments.ssh_port,
        arguments.grace_s,
        arguments.min_nodes,
    )
    if message:
        print(f"vit mpi-launch: {message}", file=sys.stderr)
    return code
