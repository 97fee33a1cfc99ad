"""The options of an elastic job that decide on its generations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.launch.job import Job


@dataclass(frozen=True)
class Rules:
    """The options of an elastic job.

    Attributes:
      hosts: Names of the nodes, by index.
      slots: Number of workers per node.
      minimum, maximum: Limits of the number of members.
      wait_s: How long the first generation waits for all workers.
      elastic_timeout_s: How long the group may stay below the minimum, and how long a member may
        take to come to a new generation.
      heartbeat_timeout_s: How long a change may wait for a member before the generation is broken.
    """

    hosts: Sequence[str]
    slots: int
    minimum: int
    maximum: int
    wait_s: float = 300.0
    elastic_timeout_s: float = 600.0
    heartbeat_timeout_s: float = 15.0


def find_rules(job: Job) -> Rules:
    """The rules of the group of an elastic job."""
    slots = len(job.hosts) * job.slots
    return Rules(
        hosts=job.hosts,
        slots=job.slots,
        minimum=job.min_workers or 1,
        maximum=slots if job.max_workers is None else job.max_workers,
        wait_s=job.wait_s,
        elastic_timeout_s=job.elastic_timeout_s,
        heartbeat_timeout_s=job.heartbeat_timeout_s,
    )
