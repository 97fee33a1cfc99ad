"""`vit stop NAME`"""

from __future__ import annotations

import argparse

from k8s.api import ClusterApi
from k8s.api_errors import ClusterError
from k8s.run_progress import RunProgress
from k8s.state import read_job
from k8s.suspend import check_not_queued, find_progress, suspend, wait_for_pods_to_end

_EPILOG = """\
The pods are asked to stop: they save a checkpoint and exit. `vit resume NAME` continues from the
checkpoint, and the deadline starts again. To remove the job, use `vit delete NAME`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the job")
    parser.add_argument(
        "--namespace", "-n", help="namespace (default: that of the kubectl context)"
    )
    parser.add_argument(
        "--wait-s",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="time to wait until all pods have ended (default: 120)",
    )
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Suspends the job and waits for its pods."""
    cluster = ClusterApi(arguments.namespace)
    job = read_job(cluster, arguments.name)
    if job.end is not None:
        print(f"{job.name} has already ended: {job.end[0]}")
        return 0
    check_not_queued(cluster, job, active=False)
    before = find_progress(cluster, job)
    suspend(cluster, job, True)
    if not wait_for_pods_to_end(cluster, job, arguments.wait_s):
        raise ClusterError(
            f"{job.name} is stopping, but some pods have not ended after {arguments.wait_s:g} s: "
            f"`vit jobs {job.name}` shows them"
        )
    # If the job has a TensorBoard, the run folder can still be read.
    after = find_progress(cluster, read_job(cluster, job.name))
    print(f"stopped {job.name}{_describe_step(before, after)}; to continue: vit resume {job.name}")
    return 0


def _describe_step(before: RunProgress, after: RunProgress) -> str:
    if after.checkpoint_step is not None:
        return f"; saved at step {after.checkpoint_step}"
    if before.step is not None:
        return f"; it saves a checkpoint at step {before.step} or later"
    return ""
