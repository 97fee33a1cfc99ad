"""`vit launch --hosts h0,h1 --processes-per-node N [options] -- COMMAND...`"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence

from jobs.cli import run_process
from pipeline.errors import SettingsError
from pipeline.launch.job import Job
from pipeline.launch.launcher import launch
from pipeline.launch.signatures import TOKEN, find_token
from pipeline.runtimes.nvidia import find_gpus

# The command has options of its own.
PARSES_IN_ORDER = True

# Where schedulers that start one program a node say which node it is.
_INDEX_VARIABLES = ("JOB_COMPLETION_INDEX", "SLURM_NODEID")

_EPILOG = f"""Start it once on each node, by whatever starts one program a node (an indexed
Kubernetes Job, srun); neither ssh nor horovodrun is needed. On one machine:

  vit launch --hosts localhost --processes-per-node 2 -- vit train digits

The nodes of a job know each other by a secret, and refuse everyone else. On several nodes set
{TOKEN} to the same value on each; make one for each job:

  export {TOKEN}=$(openssl rand -hex 32)

Rank 0 writes as if it had been started alone; the other ranks' lines begin with [rank R HOST].
SIGTERM, SIGINT, SIGUSR1 and SIGHUP (a closed terminal; not under nohup) are passed on to all
processes. When one fails, the others are ended.
The exit code is that of the node's processes, a cause before a consequence: 2 or 3, another fault,
75, 76, 0; a node is done (0) only when all nodes are.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    number = parser.add_argument
    number(
        "--hosts", required=True, metavar="H0,H1,...", help="names or IPv4 addresses of the nodes"
    )
    number(
        "--processes-per-node",
        type=int,
        metavar="N",
        help="processes on each node (default: its GPUs, or 1)",
    )
    number(
        "--index",
        type=int,
        help=f"this node's place in --hosts (default: {' or '.join(_INDEX_VARIABLES)})",
    )
    number(
        "--runtime",
        choices=("horovod", "multi_worker"),
        default="horovod",
        help="how the processes find each other (default: horovod)",
    )
    number(
        "--port",
        type=int,
        help="where node 0's launcher serves; multi_worker takes those above it too "
        "(default: a free one on one host, 29500 on several)",
    )
    number("--wait-s", type=float, default=300.0, help="wait so long for the nodes (default: 300)")
    number(
        "--grace-s",
        type=float,
        default=60.0,
        help="after a signal, kill what has not ended by then (default: 60)",
    )
    number(
        "--trust-network",
        action="store_true",
        help="multi_worker: let TensorFlow's servers, which execute whatever connects to them, "
        "listen on all interfaces; without it they get a private network, on one host only",
    )
    number("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="what to run")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Runs this node's part of the job."""
    outcome = launch(read_job(arguments, os.environ))
    if outcome.message:
        print(f"vit launch: {outcome.message}", file=sys.stderr)
    return outcome.code


def read_job(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Job:
    """Checks the arguments.

    Raises:
      SettingsError: One is wrong, or the command is not there.
    """
    hosts = _read_hosts(arguments.hosts)
    gpus = find_gpus(environment)
    asked = arguments.processes_per_node
    slots = max(1, len(gpus)) if asked is None else asked
    _check_slots(slots, len(gpus))
    _check_port(arguments.port, slots * len(hosts) if arguments.runtime == "multi_worker" else 0)
    _check_trust(hosts, arguments.runtime, arguments.trust_network)
    for name, value in (("--wait-s", arguments.wait_s), ("--grace-s", arguments.grace_s)):
        if not value >= 0:
            raise SettingsError(f"{name} must be 0 or more. Received: {value:g}")
    return Job(
        hosts=hosts,
        slots=slots,
        index=_find_index(arguments.index, hosts, environment),
        command=_read_command(arguments.command),
        runtime=arguments.runtime,
        port=arguments.port,
        wait_s=arguments.wait_s,
        grace_s=arguments.grace_s,
        gpus=gpus,
        token=find_token(environment, len(hosts)),
        trust_network=arguments.trust_network,
    )


def _read_hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(host.strip() for host in text.split(","))
    for host in hosts:
        if not re.fullmatch(r"[\w.-]+", host):
            raise SettingsError(
                "--hosts must be names or IPv4 addresses with commas between them, without ports "
                f"and numbers of processes. Received: {text!r}"
            )
    if double := [host for host in hosts if hosts.count(host) > 1]:
        raise SettingsError(
            f"--hosts names {double[0]} twice: name each host once, and give "
            "--processes-per-node 2 for two processes on each"
        )
    if len(hosts) > 1 and "localhost" in hosts:
        raise SettingsError("--hosts: localhost means another machine on each of several nodes")
    return hosts


def _check_slots(slots: int, gpus: int) -> None:
    if slots < 1:
        raise SettingsError(f"--processes-per-node must be 1 or more. Received: {slots}")
    if 0 < gpus < slots:
        raise SettingsError(
            f"--processes-per-node {slots} needs a GPU for each process, and this node has {gpus}: "
            f"give --processes-per-node {gpus} or less, or CUDA_VISIBLE_DEVICES= to train on the "
            "CPU"
        )


def _check_port(port: int | None, ports_above: int) -> None:
    if port is not None and not 1 <= port <= 65535 - ports_above:
        raise SettingsError(f"--port must be 1 to {65535 - ports_above}. Received: {port}")


def _check_trust(hosts: Sequence[str], runtime: str, trust_network: bool) -> None:
    if trust_network and runtime != "multi_worker":
        raise SettingsError("--trust-network is of --runtime multi_worker: leave it out")
    if runtime == "multi_worker" and len(hosts) > 1 and not trust_network:
        raise SettingsError(
            "--runtime multi_worker on several hosts opens a port for each process, where "
            "TensorFlow executes whatever connects: it reads and writes files as you. Use "
            "--runtime horovod, or give --trust-network where no stranger reaches these hosts "
            "(docs/security.md)"
        )


def _find_index(given: int | None, hosts: Sequence[str], environment: Mapping[str, str]) -> int:
    """This node's index, from the argument or from the scheduler."""
    source, text = "--index", given if given is None else str(given)
    for name in _INDEX_VARIABLES:
        # A single host is node 0, also inside a scheduler's job of many.
        if text is None and len(hosts) > 1 and name in environment:
            source, text = name, environment[name]
    if text is None:
        if len(hosts) == 1:
            return 0
        raise SettingsError(
            f"which of the {len(hosts)} nodes is this? Give --index 0 on {hosts[0]}, --index 1 on "
            f"{hosts[1]} and so on; neither {' nor '.join(_INDEX_VARIABLES)} is set"
        )
    if not text.isdecimal() or int(text) >= len(hosts):
        raise SettingsError(
            f"{source} must be 0 to {len(hosts) - 1}, as --hosts has {len(hosts)}. Received: {text}"
        )
    return int(text)


def _read_command(words: Sequence[str]) -> tuple[str, ...]:
    command = tuple(words[1:] if words[:1] == ["--"] else words)
    if not command:
        raise SettingsError("what shall be started? Add a command, as in ... -- vit train digits")
    if shutil.which(command[0]) is None:
        raise SettingsError(
            f"the command {command[0]!r} is not found on this node, or is no program"
        )
    return command


if __name__ == "__main__":
    run_process(["launch", *sys.argv[1:]])
