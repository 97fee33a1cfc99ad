"""Closed-form all-reduce times against a simulation of each message."""

import pytest

from pipeline.plan.hardware import Links
from pipeline.plan.reduction import all_reduce_s, ring_s, tree_s


def simulate_ring(workers, size, bytes_per_s, latency_s):
    """Sums N numbers of each worker in a ring. Returns the time if all sums are right."""
    values = [[worker + 1] * workers for worker in range(workers)]
    now = [0.0] * workers
    part_s = size / workers / bytes_per_s + latency_s
    for turn in range(2 * (workers - 1)):
        sent = []
        for worker in range(workers):
            part = (worker - turn) % workers
            sent.append((part, values[worker][part], now[worker] + part_s))
        for worker in range(workers):
            part, value, arrives = sent[worker - 1]
            adds = turn < workers - 1
            values[worker][part] = values[worker][part] + value if adds else value
            now[worker] = max(now[worker], arrives)
    assert values == [[workers * (workers + 1) // 2] * workers] * workers
    return max(now)


@pytest.mark.parametrize("workers", [2, 3, 8, 17])
def test_the_time_of_a_ring_is_that_of_its_messages(workers):
    given = 4e6, 1e9, 2e-5
    assert ring_s(workers, *given) == pytest.approx(simulate_ring(workers, *given))


def test_a_tree_has_the_bytes_of_a_ring_and_fewer_sequential_messages():
    assert ring_s(64, 1e9, 1e9, 0) == tree_s(64, 1e9, 1e9, 0)
    assert tree_s(64, 0, 1e9, 1e-5) == pytest.approx(12e-5)
    assert ring_s(64, 0, 1e9, 1e-5) == pytest.approx(126e-5)


def test_one_worker_reduces_nothing():
    assert all_reduce_s(1, 1e9, Links(8, 1e9)) == 0


def test_nodes_reduce_inside_first_and_share_their_link():
    links = Links(4, 10e9, 0.0, 100e9, 0.0)
    # 3/4 of the bytes within a node, there and back, then 7/8 of them, there and back, between 8.
    expected = 2 * 0.75 * 1e9 / 100e9 + 2 * 7 / 8 * 1e9 / 10e9
    assert all_reduce_s(32, 1e9, links) == pytest.approx(expected)
    assert all_reduce_s(4, 1e9, links) == pytest.approx(2 * 0.75 * 1e9 / 100e9)


def test_one_ring_through_all_workers_is_as_slow_as_its_slowest_link():
    links = Links(4, 10e9, 5e-6, 100e9, 1e-6, hierarchical=False)
    assert all_reduce_s(8, 1e9, links) == pytest.approx(ring_s(8, 1e9, 10e9, 5e-6))
    assert all_reduce_s(4, 1e9, links) == pytest.approx(ring_s(4, 1e9, 100e9, 1e-6))
