"""Numbers of updates against integer arithmetic."""

import random
from fractions import Fraction

import pytest

from pipeline.config import TrainConfig
from pipeline.optim.steps import count_steps, epochs_to_steps


def test_epochs_that_divide_evenly_need_no_extra_step():
    # In floating point it is 15,625.000000000002.
    assert count_steps(TrainConfig(epochs=30), Fraction(50_000, 96)) == 15_625


@pytest.mark.parametrize("seed", range(4))
def test_a_run_sees_all_its_images_and_no_batch_more(seed):
    draw = random.Random(seed)
    for _ in range(2000):
        examples, batch = draw.randint(1, 2_000_000), draw.randint(1, 8192)
        tenths = draw.randint(1, 3000)
        steps = count_steps(TrainConfig(epochs=tenths / 10), Fraction(examples, batch))
        # steps - 1 batches are too few for tenths / 10 epochs, and steps are enough.
        assert (steps - 1) * batch * 10 < examples * tenths <= steps * batch * 10


def test_the_number_of_steps_is_used_unchanged():
    assert count_steps(TrainConfig(max_steps=7), Fraction(50_000, 96)) == 7


def test_a_tenth_of_an_epoch_is_a_tenth():
    assert epochs_to_steps(0.1, Fraction(30)) == 3
    assert epochs_to_steps(1e-05, Fraction(100_000)) == 1
