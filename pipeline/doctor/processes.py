"""The number and place of a job's processes."""

from __future__ import annotations

from typing import NamedTuple


class JobProcesses(NamedTuple):
    """The job that the doctor examines.

    Attributes:
      num_replicas: Number of replicas in all processes.
      local_replicas: Number of replicas of this process.
      processes_here: Number of processes on this host.
      is_chief: Whether this process writes the run folder.
      parallel_parts: Number of parts of a replica's batch that are computed concurrently.
    """

    num_replicas: int
    local_replicas: int = 1
    processes_here: int = 1
    is_chief: bool = True
    parallel_parts: int = 1
