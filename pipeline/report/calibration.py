"""Whether a model is right as often as it says: reliability and expected calibration error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BINS = 15


class Bin(NamedTuple):
    """Predictions of about the same confidence.

    Attributes:
      above, up_to: Bounds of the confidence, in 0..1.
      examples: How many.
      confidence: Their mean; NaN where there are none.
      accuracy: Likewise of being right.
    """

    above: float
    up_to: float
    examples: int
    confidence: float
    accuracy: float


def reliability(
    confidence: npt.NDArray[np.floating], right: npt.NDArray[np.bool_], bins: int = BINS
) -> list[Bin]:
    """Predictions by confidence, in bins of equal width, of which each has its upper bound.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599.

    Args:
      confidence: [n], probability of the likeliest class.
      right: bool [n], whether that is the label.
      bins: How many.
    """
    confidence = confidence.astype(np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, confidence, bins) / counts
        accuracy = np.bincount(place, right.astype(np.float64), bins) / counts
    return [
        Bin(i / bins, (i + 1) / bins, int(counts[i]), float(mean[i]), float(accuracy[i]))
        for i in range(bins)
    ]


def calibration_error(bins: list[Bin]) -> float | None:
    """The mean distance of confidence and accuracy over the examples, in 0..1; None for none."""
    filled = [b for b in bins if b.examples]
    if not filled:
        return None
    total = sum(b.examples for b in filled)
    return sum(b.examples * abs(b.accuracy - b.confidence) for b in filled) / total
