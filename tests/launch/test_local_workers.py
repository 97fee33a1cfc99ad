"""How long the workers of a node may be silent."""

import pytest

from pipeline.launch.local_workers import LocalWorkers
from pipeline.runtimes.worker_reports import WorkerEnd, WorkerReport

A, B, C = (letter * 32 for letter in "abc")


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def workers(clock):
    """A worker that trains, one that prepares, and one that has never reported."""
    workers = LocalWorkers(clock)
    for slot, worker in enumerate((A, B, C)):
        workers.add(worker, slot)
    workers.take(A, WorkerReport(1, state="running"))
    workers.take(B, WorkerReport(1, state="preparing"))
    return workers


@pytest.mark.parametrize(
    ("after_s", "found"),
    [
        (15, []),
        (15.1, [(A, 15)]),
        (120.1, [(A, 15), (B, 120)]),
        (600, [(A, 15), (B, 120)]),
        (600.1, [(A, 15), (B, 120), (C, 600)]),
    ],
)
def test_silent_workers_are_found(workers, clock, after_s, found):
    clock.now_s += after_s
    assert workers.silent(15, 120, 600) == found


def test_workers_that_have_ended_may_be_silent(workers, clock):
    for worker in (A, B, C):
        workers.end(worker, WorkerEnd(-9, "was killed by SIGKILL"))
    clock.now_s += 1000
    assert workers.silent(15, 120, 600) == []


def test_after_a_pause_of_the_launcher_all_count_as_heard(workers, clock):
    clock.now_s += 1000
    workers.hear_all()
    assert workers.silent(15, 120, 600) == []
    assert [workers.has_reported(worker) for worker in (A, B, C)] == [True, True, False]
