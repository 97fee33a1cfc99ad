"""`vit jobs [NAME] [--json]`"""

from __future__ import annotations

import argparse
import logging
from concurrent.futures import ThreadPoolExecutor

from k8s.api import ClusterApi
from k8s.job_table import job_row, pod_row, print_jobs, print_pods
from k8s.state import read_job, read_jobs
from pipeline.strict_json import to_json

_LOG = logging.getLogger(__name__)

_EPILOG = """\
Step, loss, images/s and the last checkpoint are read from the run folder, through a running pod of
the job or of its TensorBoard. If there is no such pod, these columns are empty.

  vit jobs                 all jobs in the namespace
  vit jobs cifar10         one job and its pods
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this job and its pods")
    parser.add_argument(
        "--namespace", "-n", help="namespace (default: that of the kubectl context)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per job")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    cluster = ClusterApi(arguments.namespace)
    jobs = [read_job(cluster, arguments.name)] if arguments.name else read_jobs(cluster)
    with ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(lambda job: job_row(cluster, job), jobs))
    for note in sorted({row.pop("note") for row in rows} - {""}):
        _LOG.warning("cannot read the progress: %s", note)
    pods = [pod_row(pod) for pod in jobs[0].pods] if arguments.name else []
    if arguments.json:
        for row in rows:
            print(to_json(row | ({"pods": pods} if arguments.name else {})))
    elif not jobs:
        cluster.check_namespace()
        print(f"no jobs in namespace {cluster.namespace}")
    else:
        print_jobs(rows)
        if pods:
            print()
            print_pods(pods)
    return 0
