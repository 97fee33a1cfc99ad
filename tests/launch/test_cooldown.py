"""When a slot whose worker failed may start the next one, and which failures every worker has."""

from pipeline.launch.cooldown import FORGET_AFTER_S, LONGEST_S, Cooldown
from pipeline.launch.failures import Failures


def test_a_killed_worker_is_replaced_at_once_and_then_after_growing_delays():
    cooldown = Cooldown()
    delays = [cooldown.fail(float(now_s), at_once=True) for now_s in range(8)]
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]
    assert delays[-1] == LONGEST_S


def test_after_an_exception_the_first_delay_is_not_skipped():
    cooldown = Cooldown()
    assert [cooldown.fail(float(now_s), at_once=False) for now_s in range(3)] == [10, 20, 40]


def test_failures_are_forgotten_after_a_time_without_any():
    cooldown = Cooldown()
    for now_s in (0.0, 1.0, 2.0):
        cooldown.fail(now_s, at_once=True)
    assert cooldown.fail(2.0 + FORGET_AFTER_S, at_once=True) == 40
    assert cooldown.fail(3.0 + 2 * FORGET_AFTER_S, at_once=True) == 0


def test_as_many_exceptions_at_one_step_as_workers_are_a_fault_of_all():
    failures = Failures()
    failures.note_step(7)
    assert [failures.add(1, size, 0.0) for size in (3, 2, 1)] == [False, False, True]


def test_a_completed_step_shows_that_a_fault_is_not_of_all():
    failures = Failures()
    failures.note_step(7)
    assert not failures.add(5, 2, 0.0)
    assert failures.code == 5
    failures.note_step(7)  # a late report of the same step
    assert failures.code == 5
    failures.note_step(8)
    assert failures.code == 0
    assert not failures.add(5, 2, 1.0)


def test_exceptions_far_apart_are_not_of_all():
    failures = Failures()
    assert [failures.add(5, 2, now_s) for now_s in (0.0, 601.0, 1300.0)] == [False] * 3
    assert failures.add(5, 2, 1310.0)
