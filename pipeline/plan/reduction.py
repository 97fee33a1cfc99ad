"""Closed-form time of an all-reduce, from latency and bandwidth.

References:
  Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication Operations in
  MPICH" (costs of rings and trees).
  Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
  NVIDIA 2019, "Massively scale your deep learning training with NCCL 2.4" (double binary trees,
  which have the bandwidth of a ring).
"""

from __future__ import annotations

import math

from pipeline.plan.hardware import Links


def ring_s(workers: int, size: float, bytes_per_s: float, latency_s: float) -> float:
    """Time of a ring all-reduce: 2 (N - 1) steps, each with 1/N of the bytes.

    Args:
      workers: N.
      size: Bytes per worker.
      bytes_per_s: Bandwidth of the slowest link, per direction.
      latency_s: Latency of one message.
    """
    turns = 2 * (workers - 1)
    return turns * (size / workers / bytes_per_s + latency_s)


def tree_s(workers: int, size: float, bytes_per_s: float, latency_s: float) -> float:
    """Time of double binary trees: the bytes of a ring, but 2 log2 N sequential messages."""
    share = 2 * (workers - 1) / workers
    return share * size / bytes_per_s + 2 * math.ceil(math.log2(workers)) * latency_s


def all_reduce_s(workers: int, size: float, links: Links) -> float:
    """Time in seconds to sum `size` bytes over all workers; 0 for one worker.

    Hierarchical links are used in three phases. First comes the reduce-scatter of a ring within
    each node, after which each of g workers has the node's sum of 1/g of the bytes. Then an
    all-reduce between nodes sums these parts, which share the link of the node. Last comes the
    all-gather within each node. Without hierarchy, one ring passes through all workers, and enters
    and leaves each node once.
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
