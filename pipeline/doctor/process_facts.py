"""What the processes of a job know of one another."""

from __future__ import annotations

from typing import NamedTuple


class ProcessFacts(NamedTuple):
    """The job that the doctor looks at.

    Attributes:
      num_replicas: In all.
      local_replicas: Of this process.
      processes_here: On this host.
      is_chief: Whether this process writes the run folder.
      parallel_parts: Parts of a replica's batch that are computed side by side.
    """

    num_replicas: int
    local_replicas: int = 1
    processes_here: int = 1
    is_chief: bool = True
    parallel_parts: int = 1
