"""`vit resume NAME`"""

from __future__ import annotations

import argparse

from k8s.api import ClusterApi
from k8s.state import read_job
from k8s.suspend import check_not_queued, has_active_pods, suspend
from pipeline.errors import SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="name of a stopped job")
    parser.add_argument(
        "--namespace", "-n", help="namespace (default: that of the kubectl context)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Resumes the job."""
    cluster = ClusterApi(arguments.namespace)
    job = read_job(cluster, arguments.name)
    if job.end is not None:
        raise SettingsError(
            f"{job.name} has ended ({job.end[0]}) and cannot be resumed: run `vit delete "
            f"{job.name}`, then the `vit submit` command again, which continues its run"
        )
    check_not_queued(cluster, job, active=True)
    if not job.suspended:
        print(f"{job.name} is not stopped")
        return 0
    if job.is_mpi and has_active_pods(job):
        # The operator would take the pods that are ending for the workers.
        raise SettingsError(f"pods of {job.name} are still ending: try again after they have ended")
    suspend(cluster, job, False)
    print(f"{job.name} continues from its last checkpoint: vit jobs {job.name}")
    return 0
