"""`vit resume NAME`"""

from __future__ import annotations

import argparse

from jobs.stop import check_not_queued, suspend
from k8s.api import ClusterApi
from k8s.state import read_job
from pipeline.errors import SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="of a stopped job")
    parser.add_argument("--namespace", "-n", help="default: that of the kubectl context")


def run(arguments: argparse.Namespace) -> int:
    """Lets the job run again."""
    cluster = ClusterApi(arguments.namespace)
    job = read_job(cluster, arguments.name)
    if job.end is not None:
        raise SettingsError(
            f"{job.name} has ended ({job.end[0]}), and does not start again: `vit delete "
            f"{job.name}`, then give the `vit submit` command again, which goes on with its run"
        )
    check_not_queued(cluster, job, active=True)
    if not job.suspended:
        print(f"{job.name} is not stopped")
        return 0
    if job.is_mpi and any(p["status"].get("phase") in ("Pending", "Running") for p in job.pods):
        # The operator would take those that are ending for the workers.
        raise SettingsError(f"pods of {job.name} are still ending: try again when they have")
    suspend(cluster, job, False)
    print(f"{job.name} goes on from its last checkpoint: vit jobs {job.name}")
    return 0
