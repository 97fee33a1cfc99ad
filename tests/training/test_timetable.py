"""What is due when, against a walk over every step."""

from fractions import Fraction
from math import ceil

import pytest

from pipeline.config import CheckpointConfig, TrainConfig
from pipeline.training.timetable import Timetable

TRAIN = TrainConfig(log_every_steps=7, evaluate_every_epochs=0.5)
SAVE = CheckpointConfig(every_steps=5, every_epochs=2.0)


def ends(period, steps):
    """The steps that end a period: the first that has its last part in it; exact fractions."""
    return {ceil(n * Fraction(period)) for n in range(1, ceil(steps / period) + 1)}


@pytest.mark.parametrize(("examples", "batch"), [(45, 12), (1437, 96), (50, 50), (7, 16)])
def test_it_is_due_at_the_ends_of_its_periods_and_at_the_last_step(examples, batch):
    epoch, steps = Fraction(examples, batch), 60
    table = Timetable(TRAIN, SAVE, epoch, steps)
    for step in range(1, steps):
        assert table.logs_at(step) == (step % 7 == 0)
        assert table.evaluates_at(step) == (step in ends(epoch / 2, steps))
        assert table.saves_at(step) == (step % 5 == 0 or step in ends(2 * epoch, steps))
        number = table.epoch_ending_at(step)
        assert (number is not None) == (step in ends(epoch, steps))
        if number is not None:
            assert step - 1 < (number + 1) * epoch <= step
    assert table.logs_at(steps)
    assert table.evaluates_at(steps)
    assert table.saves_at(steps)


def test_nothing_due_is_ever_passed_over():
    table = Timetable(TRAIN, SAVE, Fraction(45, 12), 60)
    reached, step = [], 0
    while step < 60:
        step = table.next_after(step)
        reached.append(step)
    due = [
        s
        for s in range(1, 61)
        if table.logs_at(s)
        or table.evaluates_at(s)
        or table.saves_at(s)
        or table.epoch_ending_at(s) is not None
    ]
    assert reached == due


def test_other_steps_are_stopped_at_as_well():
    train = TrainConfig(log_every_steps=1000, evaluate_every_epochs=None)
    table = Timetable(train, CheckpointConfig(every_epochs=None), Fraction(50), 45, also=(11, 12))
    assert [table.next_after(step) for step in (0, 10, 11, 12)] == [11, 11, 12, 45]


def test_what_is_off_is_due_at_the_end_only():
    train = TrainConfig(log_every_steps=1000, evaluate_every_epochs=None)
    table = Timetable(train, CheckpointConfig(every_epochs=None), Fraction(10), 35)
    assert [s for s in range(1, 36) if table.evaluates_at(s) or table.saves_at(s)] == [35]
    assert table.next_after(30) == 35


def test_what_is_written_in_decimals_is_no_binary_fraction():
    train = TrainConfig(log_every_steps=1000, evaluate_every_epochs=0.1)
    table = Timetable(train, CheckpointConfig(every_epochs=0.3), Fraction(10), 30)
    assert [s for s in range(1, 31) if table.evaluates_at(s)] == list(range(1, 31))
    assert [s for s in range(1, 31) if table.saves_at(s)] == list(range(3, 31, 3))
