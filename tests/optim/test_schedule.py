import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import OptimConfig
from pipeline.optim.schedule import (
    Schedule,
    build_schedule,
    scale_learning_rate,
    warmup_problem,
)


def test_warm_up_is_linear_and_the_cosine_reaches_its_floor():
    schedule = Schedule(peak_lr=0.5, floor_lr=0.1, warmup_steps=10, total_steps=110, kind="cosine")
    got = [float(schedule(tf.constant(t))) for t in range(111)]
    warm = [0.5 * (t + 1) / 10 for t in range(10)]
    cosine = [0.1 + 0.4 * (1 + math.cos(math.pi * (t - 10) / 100)) / 2 for t in range(10, 111)]
    np.testing.assert_allclose(got, warm + cosine, rtol=1e-6)


def test_after_the_end_the_rate_stays_at_the_floor():
    schedule = Schedule(peak_lr=1.0, floor_lr=0.25, warmup_steps=0, total_steps=10, kind="cosine")
    assert float(schedule(tf.constant(50))) == 0.25


def test_a_constant_schedule_stays_at_the_peak():
    schedule = Schedule(peak_lr=1.0, floor_lr=0.0, warmup_steps=2, total_steps=10, kind="constant")
    assert [float(schedule(tf.constant(t))) for t in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("rule", "rate"), [("linear", 4e-3), ("sqrt", 2e-3), ("none", 1e-3)])
def test_the_rate_is_scaled_from_256_images(rule, rate):
    assert scale_learning_rate(1e-3, 1024, rule) == pytest.approx(rate)


def test_warm_up_in_epochs_becomes_steps_and_steps_override_it():
    def build(**settings):
        config = OptimConfig(warmup_epochs=2.5, **settings)
        return build_schedule(
            config, global_batch_size=256, total_steps=99, steps_per_epoch=Fraction(51, 5)
        )

    assert build().warmup_steps == round(2.5 * 10.2)
    assert build(warmup_steps=3).warmup_steps == 3


@pytest.mark.parametrize(
    ("steps", "warmup", "problem", "advice"),
    [
        (100, 400, "is longer than the run of 100 steps: the learning rate reaches 25% of its peak",
         "Set optim.warmup_steps=5, a twentieth of the run, or train longer"),
        (20, 20, "is as long as the run: the learning rate reaches its peak at the last step",
         "Set optim.warmup_steps=1, a twentieth of the run, or train longer"),
        (6, 13, "is longer than the run of 6 steps: the learning rate reaches 46% of its peak",
         "Set optim.warmup_steps=0, no warm-up, or train longer"),
        (4, 4, "is as long as the run", "Set optim.warmup_steps=0, no warm-up, or train longer"),
    ],
)  # fmt: skip
def test_a_warm_up_that_takes_the_whole_run_is_a_problem(steps, warmup, problem, advice):
    schedule = Schedule(1.0, 0.0, warmup, steps, "cosine")
    said, remedy = warmup_problem(schedule, Fraction(10))
    assert problem in said
    assert remedy == advice
    assert warmup_problem(schedule._replace(warmup_steps=steps - 1), Fraction(10)) is None
