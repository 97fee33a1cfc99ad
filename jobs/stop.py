"""`vit stop NAME`"""

from __future__ import annotations

import argparse
import time

from k8s.api import ClusterApi
from k8s.api_errors import ClusterError
from k8s.run_progress import RunProgress, read_progress
from k8s.state import JobView, read_job
from pipeline.errors import PipelineError, SettingsError

_EPILOG = """\
The pods are asked to end: they save a checkpoint and go. `vit resume NAME` goes on from it; the
deadline then begins anew. For good: `vit delete NAME`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="of the job")
    parser.add_argument("--namespace", "-n", help="default: that of the kubectl context")
    parser.add_argument(
        "--wait-s",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long to wait until no pod is left (default: 120)",
    )
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Suspends the job and waits for its pods."""
    cluster = ClusterApi(arguments.namespace)
    job = read_job(cluster, arguments.name)
    if job.end is not None:
        print(f"{job.name} has ended already: {job.end[0]}")
        return 0
    check_not_queued(cluster, job, active=False)
    before = _progress(cluster, job)
    suspend(cluster, job, True)
    if not _pods_end(cluster, job, arguments.wait_s):
        raise ClusterError(
            f"{job.name} is stopping, and after {arguments.wait_s:g} s pods are left: "
            f"`vit jobs {job.name}` shows them"
        )
    # Where TensorBoard runs, the folder can be read without the job.
    after = _progress(cluster, read_job(cluster, job.name))
    print(f"stopped {job.name}{_from_where(before, after)}; vit resume {job.name} goes on")
    return 0


def suspend(cluster: ClusterApi, job: JobView, value: bool) -> None:
    """Sets the job's own switch."""
    spec = {"suspend": value}
    cluster.patch(job.main["kind"], job.name, {"spec": {"runPolicy": spec} if job.is_mpi else spec})


def check_not_queued(cluster: ClusterApi, job: JobView, active: bool) -> None:
    """Kueue sets `suspend` back: it has a switch of its own.

    Raises:
      SettingsError: The job is in a queue; gives the command to use.
    """
    if job.queued_by_kueue:
        find = (
            f"kubectl -n {cluster.namespace} get workloads "
            f"-l kueue.x-k8s.io/job-uid={job.main['metadata']['uid']} -o name"
        )
        change = f'{{"spec":{{"active":{str(active).lower()}}}}}'
        raise SettingsError(
            f"{job.name} is in a queue of Kueue, which decides when it runs. Set its Workload's "
            f"spec.active={str(active).lower()} instead:\n"
            f"  kubectl -n {cluster.namespace} patch $({find}) --type merge -p '{change}'"
        )


def _pods_end(cluster: ClusterApi, job: JobView, wait_s: float) -> bool:
    deadline_s = time.monotonic() + wait_s
    while True:
        pods = read_job(cluster, job.name).pods
        if not any(pod["status"].get("phase") in ("Pending", "Running") for pod in pods):
            return True
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(min(1.0, max(0.05, wait_s / 10)))


def _progress(cluster: ClusterApi, job: JobView) -> RunProgress:
    try:
        return read_progress(cluster, job)
    except PipelineError:
        return RunProgress()  # it is told for comfort alone


def _from_where(before: RunProgress, after: RunProgress) -> str:
    if after.checkpoint_step is not None:
        return f" at step {after.checkpoint_step}, which is saved"
    if before.step is not None:
        return f", which saves where it stops: step {before.step} or later"
    return ""
