"""`vit logs NAME [--rank R] [-f]`"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable

from k8s.api import ClusterApi
from k8s.api_errors import ClusterError, NotThere
from k8s.logs import find_pod, line_filter
from k8s.state import read_job

_LOG = logging.getLogger(__name__)

_EPILOG = """\
Without --rank, the complete log of the first node's pod is printed. The logs of pods that have been
replaced are not included: `vit jobs NAME` lists these pods, and `kubectl logs POD` prints the log
of a pod as long as the pod exists.

  vit logs cifar10 -f
  vit logs cifar10 --rank 11
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the job")
    parser.add_argument(
        "--namespace", "-n", help="namespace (default: that of the kubectl context)"
    )
    parser.add_argument(
        "--rank", type=int, metavar="R", help="print only the lines of this process"
    )
    parser.add_argument(
        "--follow", "-f", action="store_true", help="print new lines until the pod ends"
    )
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prints the log."""
    cluster = ClusterApi(arguments.namespace)
    job = read_job(cluster, arguments.name)
    pod = find_pod(cluster, job, arguments.rank or 0)
    is_wanted = line_filter(job, arguments.rank)
    name = pod["metadata"]["name"]
    try:
        has_lines = _print(filter(is_wanted, cluster.log(name, "vit", arguments.follow)))
    except NotThere:
        raise ClusterError(
            f"the pod of {job.name} has been deleted in the meantime: try again"
        ) from None
    if not has_lines:
        whose = "" if arguments.rank is None else f" of rank {arguments.rank}"
        _LOG.info("no line%s in the log of pod %s yet", whose, name)
    return 0


def _print(lines: Iterable[str]) -> bool:
    """Prints the lines as they arrive; returns whether there were any."""
    has_lines = False
    for line in lines:
        print(line, end="", flush=True)
        has_lines = True
    return has_lines
