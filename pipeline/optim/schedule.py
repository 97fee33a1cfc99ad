"""The learning rate: scaled with the global batch size, with warm-up and annealing."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal, NamedTuple

import tensorflow as tf

from pipeline.config import Config, OptimConfig
from pipeline.optim.steps import count_steps, epochs_to_steps

REFERENCE_BATCH_SIZE = 256


class Schedule(NamedTuple):
    """The learning rate as a function of the step.

    Attributes:
      peak_lr: Learning rate at the end of the warm-up.
      floor_lr: Learning rate at the end of the cosine.
      warmup_steps: Steps of the warm-up. Step t of it has (t + 1) / warmup_steps of the peak.
      total_steps: Length of the schedule.
      kind: Shape after the warm-up.
    """

    peak_lr: float
    floor_lr: float
    warmup_steps: int
    total_steps: int
    kind: Literal["cosine", "constant"]

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of a step (integer scalar, from 0), as a float32 scalar.

        It is computed in float64, so that schedules of 10^7 steps remain exact. The cosine follows
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
    """Scales a learning rate for a batch of 256 images to `global_batch_size`.

    References:
      Linear: Goyal et al. 2017, https://arxiv.org/abs/1706.02677.
      Square root: Krizhevsky 2014, https://arxiv.org/abs/1404.5997.
    """
    ratio = global_batch_size / REFERENCE_BATCH_SIZE
    return base_lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[rule]


def build_schedule(
    config: OptimConfig, *, global_batch_size: int, total_steps: int, steps_per_epoch: Fraction
) -> Schedule:
    """Builds the schedule of a run with `total_steps` updates.

    A warm-up longer than the run is not shortened: the run then ends below its peak.
    """
    peak_lr = scale_learning_rate(config.base_lr, global_batch_size, config.lr_scaling)
    warmup_steps = config.warmup_steps
    if warmup_steps is None:
        warmup_steps = round(epochs_to_steps(config.warmup_epochs, steps_per_epoch))
    return Schedule(
        peak_lr=peak_lr,
        floor_lr=peak_lr * config.final_lr_fraction,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        kind=config.schedule,
    )


def plan_schedule(config: Config, examples: int) -> Schedule:
    """The schedule of a run on the given number of training examples."""
    steps_per_epoch = Fraction(examples, config.data.global_batch_size)
    return build_schedule(
        config.optim,
        global_batch_size=config.data.global_batch_size,
        total_steps=count_steps(config.train, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
    )


def warmup_problem(schedule: Schedule, steps_per_epoch: Fraction) -> tuple[str, str] | None:
    """A problem and its remedy if the warm-up takes the whole run; otherwise None."""
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
    """Describes the effective learning rate."""
    optim, batch = config.optim, config.data.global_batch_size
    return (
        f"peak learning rate {schedule.peak_lr:.3g} = optim.base_lr {optim.base_lr:g} x "
        f"{optim.lr_scaling} scaling of batch {batch} / 256, warm-up "
        f"{schedule.warmup_steps} steps, then {schedule.kind}"
    )
