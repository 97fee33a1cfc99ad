"""Reliability and expected calibration error: does confidence match accuracy?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BINS = 15


class Bin(NamedTuple):
    """The predictions with a confidence in one interval.

    Attributes:
      above, up_to: Bounds of the confidence, in 0..1.
      examples: Number of predictions.
      confidence: Mean confidence; NaN without predictions.
      accuracy: Share of correct predictions; NaN without predictions.
    """

    above: float
    up_to: float
    examples: int
    confidence: float
    accuracy: float


def reliability(
    confidence: npt.NDArray[np.floating], right: npt.NDArray[np.bool_], bins: int = BINS
) -> list[Bin]:
    """Groups predictions by confidence into bins of equal width that include their upper bound.

    Args:
      confidence: [n], probability of the predicted class.
      right: bool [n], whether the predicted class is the label.
      bins: Number of bins.

    References:
      Guo et al. 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599
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
    """Returns the mean difference between confidence and accuracy, weighted by examples.

    It is in 0..1, or None without examples.
    """
    filled = [b for b in bins if b.examples]
    if not filled:
        return None
    total = sum(b.examples for b in filled)
    return sum(b.examples * abs(b.accuracy - b.confidence) for b in filled) / total
