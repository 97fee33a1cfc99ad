"""Suspends and resumes a job."""

from __future__ import annotations

import time

from k8s.api import ClusterApi
from k8s.run_progress import RunProgress, read_progress
from k8s.state import JobView, read_job
from pipeline.errors import PipelineError, SettingsError


def suspend(cluster: ClusterApi, job: JobView, value: bool) -> None:
    """Sets the `suspend` field of a Job or MPIJob."""
    spec = {"suspend": value}
    cluster.patch(job.main["kind"], job.name, {"spec": {"runPolicy": spec} if job.is_mpi else spec})


def check_not_queued(cluster: ClusterApi, job: JobView, active: bool) -> None:
    """Refuses a job of Kueue, which would set `suspend` back.

    Raises:
      SettingsError: The job is in a queue; the message contains the command to use instead.
    """
    if job.queued_by_kueue:
        find = (
            f"kubectl -n {cluster.namespace} get workloads "
            f"-l kueue.x-k8s.io/job-uid={job.main['metadata']['uid']} -o name"
        )
        change = f'{{"spec":{{"active":{str(active).lower()}}}}}'
        raise SettingsError(
            f"{job.name} is in a queue of Kueue, which decides when it runs. Set spec.active="
            f"{str(active).lower()} in its Workload instead:\n"
            f"  kubectl -n {cluster.namespace} patch $({find}) --type merge -p '{change}'"
        )


def has_active_pods(job: JobView) -> bool:
    """Whether a pod of the job is pending or running."""
    return any(pod["status"].get("phase") in ("Pending", "Running") for pod in job.pods)


def wait_for_pods_to_end(cluster: ClusterApi, job: JobView, wait_s: float) -> bool:
    """Returns True when no pod is pending or running, or False after `wait_s`."""
    deadline_s = time.monotonic() + wait_s
    while has_active_pods(read_job(cluster, job.name)):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(min(1.0, max(0.05, wait_s / 10)))
    return True


def find_progress(cluster: ClusterApi, job: JobView) -> RunProgress:
    """Returns the progress of the job's run, as far as it can be read."""
    try:
        return read_progress(cluster, job)
    except PipelineError:
        return RunProgress()  # It is shown for information only.
