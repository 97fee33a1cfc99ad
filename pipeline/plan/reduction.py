"""How long N workers take to sum their gradients: latency and bandwidth, in closed form.

References: Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication
Operations in MPICH" (the costs of rings and trees); Patarasuk and Yuan 2009, "Bandwidth optimal
all-reduce algorithms for clusters of workstations"; NVIDIA 2019, "Massively scale your deep
learning training with NCCL 2.4" (double binary trees, which keep a ring's bandwidth).
"""

from __future__ import annotations

import math

from pipeline.plan.hardware import Links


def ring_s(workers: int, size: float, bytes_per_s: float, latency_s: float) -> float:
    """Seconds of a ring all-reduce: 2 (N - 1) turns, each with an N-th of the bytes.

    Args:
      workers: N.
      size: Bytes that each worker has.
      bytes_per_s: Of the slowest link, in each direction.
      latency_s: Of one message.
    """
    turns = 2 * (workers - 1)
    return turns * (size / workers / bytes_per_s + latency_s)


def tree_s(workers: int, size: float, bytes_per_s: float, latency_s: float) -> float:
    """Seconds of double binary trees: a ring's bytes, but 2 log2 N messages one after the other."""
    share = 2 * (workers - 1) / workers
    return share * size / bytes_per_s + 2 * math.ceil(math.log2(workers)) * latency_s


def all_reduce_s(workers: int, size: float, links: Links) -> float:
    """Seconds to sum `size` bytes over all workers; 0 for one.

    Hierarchical links are used in three parts: a ring's first half within each node, after which
    each of g workers has the node's sum of a g-th; an all-reduce of all those parts with the other
    nodes, which share the node's link; the ring's second half. Without hierarchy, one ring leads
    through all workers, and enters and leaves each node once.
    """
    if workers == 1:
        return 0.0
    inside = min(workers, links.per_node)
    nodes = math.ceil(workers / links.per_node)
    local = links.local_bytes_per_s, links.local_latency_s
    between = links.node_bytes_per_s, links.node_latency_s
    if nodes == 1:
        return ring_s(workers, size, *local)
    if not links.hierarchical:
        return ring_s(workers, size, min(local[0], between[0]), max(local[1], between[1]))
    outside = min(ring_s(nodes, size, *between), tree_s(nodes, size, *between))
    return ring_s(inside, size, *local) + outside
