"""`vit logs NAME [--rank R] [-f]`"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Iterable

from k8s.api import ClusterApi, Manifest
from k8s.api_errors import ClusterError, NotThere
from k8s.state import JobView, describe, read_job, why_pending
from pipeline.errors import PipelineError, SettingsError

_LOG = logging.getLogger(__name__)

_EPILOG = """\
Without --rank all that the first node's pod prints. A pod that was replaced has its log no more in
here: `vit jobs NAME` shows it, and `kubectl logs POD` prints its log while the pod is kept.

  vit logs cifar10 -f
  vit logs cifar10 --rank 11
"""

# `vit launch` and horovodrun name the process before each line; of rank 0 `vit launch` does not.
_FROM = re.compile(r"\[rank (\d+) \S+\] |\[(\d+)\]<std(?:out|err)>:")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="of the job")
    parser.add_argument("--namespace", "-n", help="default: that of the kubectl context")
    parser.add_argument("--rank", type=int, metavar="R", help="what this process prints, alone")
    parser.add_argument("--follow", "-f", action="store_true", help="go on until the pod ends")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prints the log."""
    cluster = ClusterApi(arguments.namespace)
    job = read_job(cluster, arguments.name)
    pod = _pod(cluster, job, arguments.rank or 0)
    wanted = _filter(job, arguments.rank)
    name = pod["metadata"]["name"]
    try:
        printed = _print(filter(wanted, cluster.log(name, "vit", arguments.follow)))
    except NotThere:
        raise ClusterError(f"the pod of {job.name} has gone meanwhile: try again") from None
    if not printed:
        whose = "" if arguments.rank is None else f" of rank {arguments.rank}"
        _LOG.info("no line%s in the log of pod %s yet", whose, name)
    return 0


def _pod(cluster: ClusterApi, job: JobView, rank: int) -> Manifest:
    """The newest pod that has the rank, if it has a log."""
    size = job.nodes * job.slots
    if not 0 <= rank < size:
        raise SettingsError(f"--rank must be in 0..{size - 1} for job {job.name}. Received: {rank}")
    pod = job.newest("launcher" if job.is_mpi else str(rank // job.slots))
    if pod is None:
        raise PipelineError(f"no pod of {job.name} has that rank now: {describe(cluster, job)}")
    if pod["status"].get("phase") == "Pending":
        why = why_pending(cluster, pod) or "it is starting, try again soon"
        raise PipelineError(f"the pod {pod['metadata']['name']} has not started: {why}")
    return pod


def _filter(job: JobView, rank: int | None) -> Callable[[str], bool]:
    if rank is None or (job.slots == 1 and not job.is_mpi):
        return lambda line: True

    def is_from_rank(line: str) -> bool:
        found = _FROM.match(line)
        return (0 if found is None else int(found[1] or found[2])) == rank

    return is_from_rank


def _print(lines: Iterable[str]) -> bool:
    """Prints the lines as they come; returns whether there were any."""
    printed = False
    for line in lines:
        print(line, end="", flush=True)
        printed = True
    return printed
