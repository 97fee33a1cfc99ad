"""The place of a process in a generation of an elastic job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.runtimes.worker_reports import GroupView


class Generation(NamedTuple):
    """This process's place in a generation of the group.

    Attributes:
      number: Number of the generation; 1 is the first.
      paused: There are fewer members than the minimum.
      changes: Who joined or left with this generation, and why.
      variables: Environment variables with which Horovod connects the members.
    """

    number: int
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    paused: bool
    changes: tuple[str, ...]
    variables: Mapping[str, str]


def is_member(worker: str, view: GroupView) -> bool:
    """Whether a worker belongs to the newest generation."""
    return any(member.worker == worker for member in view.members)


def find_generation(view: GroupView, worker: str, address: str, port: int) -> Generation:
    """The place of a member in the newest generation.

    Args:
      view: The group.
      worker: Identifier of the member.
      address: Address of the membership server, which serves the key-value stores, too.
      port: Port of that server.
    """
    rank = [member.worker for member in view.members].index(worker)
    counts: dict[int, int] = {}
    local_ranks = []
    for member in view.members:
        local_ranks.append(counts.get(member.node, 0))
        counts[member.node] = local_ranks[-1] + 1
    # Cross ranks count the nodes that have a process with this local rank.
    across = [other for other, local in enumerate(local_ranks) if local == local_ranks[rank]]
    places = {
        "rank": rank,
        "size": len(view.members),
        "local_rank": local_ranks[rank],
        "local_size": counts[view.members[rank].node],
        "cross_rank": across.index(rank),
        "cross_size": len(across),
    }
    variables = {f"HOROVOD_{name.upper()}": str(value) for name, value in places.items()}
    variables["HOROVOD_HOSTNAME"] = view.members[rank].host
    # Each generation has a key-value store of its own (launch/store.py).
    variables["HOROVOD_GLOO_RENDEZVOUS_ADDR"] = f"{address}/g{view.generation}"
    variables["HOROVOD_GLOO_RENDEZVOUS_PORT"] = str(port)
    return Generation(
        number=view.generation,
        paused=view.paused,
        changes=view.changes,
        variables=variables,
        **places,
    )
