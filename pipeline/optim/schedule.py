"""Learning rate: scaled to the global batch, warmed up, then annealed."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, NamedTuple

import tensorflow as tf

from pipeline.config import Config, OptimConfig
from pipeline.optim.steps import count_steps, in_steps

REFERENCE_BATCH_SIZE = 256


class Schedule(NamedTuple):
    """The learning rate as a function of the update's number.

    Attributes:
      peak_lr: Rate at the end of the warm-up.
      floor_lr: Rate at the end of the cosine.
      warmup_steps: Updates until the peak; update t before it has (t + 1) / warmup_steps of it.
      total_steps: Length of the whole schedule.
      kind: What follows the warm-up.
    """

    peak_lr: float
    floor_lr: float
    warmup_steps: int
    total_steps: int
    kind: Literal["cosine", "constant"]

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Rate of update `step` (integer scalar, from 0), as a float32 scalar.

        Computed in float64, so that a schedule of 10^7 steps is still exact. Half-cosine after
        Loshchilov and Hutter, https://arxiv.org/abs/1608.03983, without restarts.
        """
        step = tf.cast(step, tf.float64)
        warm = self.peak_lr * (step + 1.0) / max(self.warmup_steps, 1)
        if self.kind == "constant":
            after = tf.constant(self.peak_lr, tf.float64)
        else:
            length = max(self.total_steps - self.warmup_steps, 1)
            progress = tf.clip_by_value((step - self.warmup_steps) / length, 0.0, 1.0)
            cosine = 0.5 * (1.0 + tf.cos(math.pi * progress))
            after = self.floor_lr + (self.peak_lr - self.floor_lr) * cosine
        return tf.cast(tf.where(step < self.warmup_steps, warm, after), tf.float32)


def scale_learning_rate(
    base_lr: float, global_batch_size: int, rule: Literal["linear", "sqrt", "none"]
) -> float:
    """The rate for `global_batch_size`, given the one for 256 images.

    Linear after Goyal et al., https://arxiv.org/abs/1706.02677; square root after Krizhevsky,
    https://arxiv.org/abs/1404.5997.
    """
    ratio = global_batch_size / REFERENCE_BATCH_SIZE
    return base_lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]


def build_schedule(
    config: OptimConfig, *, global_batch_size: int, total_steps: int, steps_per_epoch: Fraction
) -> Schedule:
    """The schedule of a run of `total_steps` updates.

    A warm-up longer than the run is kept as it is: the run then ends below its peak.
    """
    peak_lr = scale_learning_rate(config.base_lr, global_batch_size, config.lr_scaling)
    warmup_steps = config.warmup_steps
    if warmup_steps is None:
        warmup_steps = round(in_steps(config.warmup_epochs, steps_per_epoch))
    return Schedule(
        peak_lr=peak_lr,
        floor_lr=peak_lr * config.final_lr_fraction,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        kind=config.schedule,
    )


def plan_schedule(config: Config, examples: int) -> Schedule:
    """Learning rate and number of updates of a run on so many training examples."""
    steps_per_epoch = Fraction(examples, config.data.global_batch_size)
    return build_schedule(
        config.optim,
        global_batch_size=config.data.global_batch_size,
        total_steps=count_steps(config.train, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
    )


def warmup_problem(schedule: Schedule, steps_per_epoch: Fraction) -> tuple[str, str] | None:
    """What is wrong with a warm-up that takes the whole run, and what to do; else None."""
    steps, warmup = schedule.total_steps, schedule.warmup_steps
    if warmup < steps:
        return None
    epochs = float(warmup / steps_per_epoch)
    length, reached = f"longer than the run of {steps:,} steps", f"{steps / warmup:.0%} of its peak"
    if warmup == steps:
        length, reached = "as long as the run", "its peak at the last step"
    twentieth = steps // 20
    meaning = "a twentieth of the run" if twentieth else "no warm-up"
    return (
        (
            f"the warm-up of {warmup:,} steps ({epochs:,.4g} epochs) is {length}: "
            f"the learning rate reaches {reached} and never falls"
        ),
        f"Set optim.warmup_steps={twentieth}, {meaning}, or train longer",
    )


def describe_rate(config: Config, schedule: Schedule) -> str:
    """The effective learning rate in words."""
    optim, batch = config.optim, config.data.global_batch_size
    return (
        f"peak learning rate {schedule.peak_lr:.3g} = optim.base_lr {optim.base_lr:g} x "
        f"{optim.lr_scaling} scaling of batch {batch} / 256, warm-up "
        f"{schedule.warmup_steps} steps, then {schedule.kind}"
    )
