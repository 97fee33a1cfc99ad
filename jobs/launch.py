"""`vit launch --hosts h0,h1 --processes-per-node N [options] -- COMMAND...`"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from jobs.cli import run_process
from pipeline.launch.job import Job
from pipeline.launch.job_options import INDEX_VARIABLES, make_job
from pipeline.launch.launcher import launch
from pipeline.launch.signatures import TOKEN
from pipeline.launch.timeouts import Timeouts

# COMMAND has options of its own, which must not be parsed here.
PARSES_IN_ORDER = True

_EPILOG = f"""Start it once on each node, with anything that starts one program per node (an indexed
Kubernetes Job, srun). It needs neither ssh nor horovodrun. On one machine:

  vit launch --hosts localhost --processes-per-node 2 -- vit train digits

The nodes of a job authenticate each other with a secret, and refuse all other connections. With
several nodes, create one secret for each job, and set {TOKEN} to it on every node:

  export {TOKEN}=$(openssl rand -hex 32)

The output of rank 0 is printed as it is; lines of other ranks begin with [rank R HOST].
SIGTERM, SIGINT, SIGUSR1 and SIGHUP (terminal closed; ignored under nohup) are forwarded to all
processes. If one process fails, the others are terminated. With --min-workers they continue, and a
new process joins them; SIGTERM makes a single process leave, a signal to the coordinator (at first
the launcher of node 0) stops the job, and a signal to another launcher makes the processes of its
node leave.
If the processes of this node exit with different codes, the first match in this order is returned:
2 or 3, any other failure, 75, 76, 0. A node exits with 0 only after all nodes are done.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    add = parser.add_argument
    add(
        "--hosts",
        default="localhost",
        metavar="H0,H1,...",
        help="names or IPv4 addresses of the nodes, or HOST:SLOTS of each (default: localhost)",
    )
    add(
        "--processes-per-node",
        "--slots",
        type=int,
        metavar="N",
        help="processes on each node (default: one per GPU, or 1)",
    )
    add(
        "--index",
        type=int,
        help=f"index of this node in --hosts (default: {' or '.join(INDEX_VARIABLES)})",
    )
    add(
        "--runtime",
        choices=("horovod", "multi_worker"),
        default="horovod",
        help="runtime whose environment the processes get (default: horovod)",
    )
    add(
        "--port",
        type=int,
        help="port of node 0's launcher; multi_worker also uses the ports above it "
        "(default: a free port on one host, 29500 on several)",
    )
    add("--wait-s", type=float, default=300.0, help="time to wait for all nodes (default: 300)")
    add(
        "--grace-s",
        type=float,
        default=60.0,
        help="time that processes have to exit after a signal, before they are killed "
        "(default: 60)",
    )
    add(
        "--min-workers",
        type=int,
        metavar="N",
        help="make the job elastic: when processes fail, the others continue if N are left, and "
        "new ones join them (default: the job ends when a process fails)",
    )
    add(
        "--max-workers",
        type=int,
        metavar="N",
        help="processes that train together at most; the rest replace those that fail "
        "(default: all)",
    )
    add(
        "--elastic-timeout-s",
        type=float,
        default=600.0,
        help="time to wait with fewer than --min-workers processes (default: 600)",
    )
    add(
        "--heartbeat-timeout-s",
        type=float,
        default=15.0,
        help="elastic jobs: time without an answer after which a process is lost (default: 15)",
    )
    add(
        "--end-within-s",
        type=float,
        default=Timeouts.end_within_s,
        help="time within which all processes have ended after one has failed, or after a node was "
        f"lost; equal on all nodes (default: {Timeouts.end_within_s:g})",
    )
    add(
        "--trust-network",
        action="store_true",
        help="multi_worker: let TensorFlow's servers, which execute whatever connects to them, "
        "listen on all interfaces; without it they use a private network, on one host only",
    )
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="command to run")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Runs this node's part of the job."""
    outcome = launch(read_job(arguments, os.environ))
    if outcome.message:
        print(f"vit launch: {outcome.message}", file=sys.stderr)
    return outcome.code


def read_job(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Job:
    """Returns the job that the arguments describe.

    Raises:
      SettingsError: An argument is wrong, or the command does not exist.
    """
    return make_job(
        hosts=arguments.hosts,
        processes_per_node=arguments.processes_per_node,
        index=arguments.index,
        command=arguments.command,
        runtime=arguments.runtime,
        port=arguments.port,
        wait_s=arguments.wait_s,
        grace_s=arguments.grace_s,
        end_within_s=arguments.end_within_s,
        trust_network=arguments.trust_network,
        min_workers=arguments.min_workers,
        max_workers=arguments.max_workers,
        elastic_timeout_s=arguments.elastic_timeout_s,
        heartbeat_timeout_s=arguments.heartbeat_timeout_s,
        environment=environment,
    )


if __name__ == "__main__":
    run_process(["launch", *sys.argv[1:]])
