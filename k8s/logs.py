"""Finds the pod of a rank, and the lines of a rank in a pod's log."""

from __future__ import annotations

import re
from collections.abc import Callable

from k8s.api import ClusterApi, Manifest
from k8s.state import JobView, describe, why_pending
from pipeline.errors import PipelineError, SettingsError

# `vit launch` and horovodrun put the rank in front of each line, except that `vit launch` prints
# the lines of rank 0 as they are.
_PREFIX = re.compile(r"\[rank (\d+) \S+\] |\[(\d+)\]<std(?:out|err)>:")


def find_pod(cluster: ClusterApi, job: JobView, rank: int) -> Manifest:
    """Returns the newest pod that runs the rank.

    Raises:
      SettingsError: The job has no such rank.
      PipelineError: There is no such pod now, or it has not started.
    """
    size = job.nodes * job.slots
    if not 0 <= rank < size:
        raise SettingsError(f"--rank must be in 0..{size - 1} for job {job.name}. Received: {rank}")
    pod = job.newest("launcher" if job.is_mpi else str(rank // job.slots))
    if pod is None:
        raise PipelineError(
            f"no pod of {job.name} runs that rank at present: {describe(cluster, job)}"
        )
    if pod["status"].get("phase") == "Pending":
        reason = why_pending(cluster, pod) or "it is starting, try again soon"
        raise PipelineError(f"the pod {pod['metadata']['name']} has not started: {reason}")
    return pod


def line_filter(job: JobView, rank: int | None) -> Callable[[str], bool]:
    """Returns a function that says whether a line is from the rank; None accepts all lines."""
    if rank is None or (job.slots == 1 and not job.is_mpi):
        return lambda line: True

    def is_from_rank(line: str) -> bool:
        found = _PREFIX.match(line)
        return (0 if found is None else int(found[1] or found[2])) == rank

    return is_from_rank
