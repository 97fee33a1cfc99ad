"""What was taken for what: counts, accuracy a class, and the confusions that matter most."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


class Confusion(NamedTuple):
    """A class that was taken for another.

    Attributes:
      label: What it is, a class number.
      predicted: What it was taken for.
      times: How often.
      share: Of the label's examples, in 0..1.
    """

    label: int
    predicted: int
    times: int
    share: float


def confusion_counts(
    label: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], num_classes: int
) -> Counts:
    """How many examples of each class (row) were taken for each (column), int64 [C, C]."""
    # The product of two int32 numbers would not hold 50,000 classes.
    places = label.astype(np.int64) * num_classes + predicted
    counts = np.bincount(places, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def class_accuracy(counts: Counts) -> npt.NDArray[np.float64]:
    """The share of each class that was recognised, float64 [C]; NaN for one without examples."""
    examples = counts.sum(axis=1)
    return np.where(examples > 0, np.diag(counts) / np.maximum(examples, 1), np.nan)


def worst_confusions(counts: Counts, most: int) -> list[Confusion]:
    """The most frequent confusions, then those of the largest share of their class."""
    examples = counts.sum(axis=1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    found = [
        Confusion(int(i), int(j), int(wrong[i, j]), float(wrong[i, j] / examples[i]))
        for i, j in np.argwhere(wrong)
    ]
    return sorted(found, key=lambda c: (-c.times, -c.share, c.label, c.predicted))[:most]


def heat_pixels(counts: Counts) -> npt.NDArray[np.uint8]:
    """A pixel a cell, the more opaque the more of its row it holds, uint8 [C, C, 4]."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((*shares.shape, 4), np.uint8)
    # A blue that shows on dark pages and on light ones.
    pixels[..., :3] = 40, 140, 215
    # The root, so that a single confusion among many examples is seen.
    pixels[..., 3] = np.round(255 * np.sqrt(shares))
    return pixels
