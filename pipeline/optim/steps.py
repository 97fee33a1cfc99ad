"""Exact conversion of epochs to steps. Importing this module does not import TensorFlow."""

from __future__ import annotations

import math
from fractions import Fraction

from pipeline.config import TrainConfig


def epochs_to_steps(epochs: float, steps_per_epoch: Fraction) -> Fraction:
    """Converts epochs to steps without rounding: 0.1 epochs is exactly a tenth of an epoch.

    In floating point, 30 epochs of 50,000 images in batches of 96 exceed 15,625 steps.
    """
    return Fraction(str(epochs)) * steps_per_epoch


def count_steps(config: TrainConfig, steps_per_epoch: Fraction) -> int:
    """The number of steps that cover all epochs of a run, or `train.max_steps`."""
    return config.max_steps or math.ceil(epochs_to_steps(config.epochs, steps_per_epoch))
