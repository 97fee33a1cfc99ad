"""Epochs in updates, exactly. Importing this module does not import TensorFlow."""

from __future__ import annotations

import math
from fractions import Fraction

from pipeline.config import TrainConfig


def in_steps(epochs: float, steps_per_epoch: Fraction) -> Fraction:
    """So many epochs in updates, without rounding: 0.1 epochs are a tenth of an epoch.

    In floating point 30 epochs of 50,000 images in batches of 96 are more than 15,625 updates.
    """
    return Fraction(str(epochs)) * steps_per_epoch


def count_steps(config: TrainConfig, steps_per_epoch: Fraction) -> int:
    """Updates of a run: as many as see all images of its epochs, or `train.max_steps`."""
    return config.max_steps or math.ceil(in_steps(config.epochs, steps_per_epoch))
