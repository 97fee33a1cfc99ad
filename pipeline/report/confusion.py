"""Confusion counts: accuracy of each class, and the most frequent confusions.

The counts are sparse: at most one per example. A dense matrix of 20,000 classes would take 3.2 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

# A csr_array (SciPy is not typed), int64 [C, C]: rows are labels, columns are predictions. If the
# model predicts no class for some examples, a last column counts them: [C, C + 1].
Counts: TypeAlias = Any
NO_CLASS = "no class (NaN)"


class Confusion(NamedTuple):
    """A class that was mistaken for another.

    Attributes:
      label: The true class.
      predicted: The predicted class; the number of classes if no class was predicted.
      times: Number of examples.
      share: Of the examples of the true class, in 0..1.
    """

    label: int
    predicted: int
    times: int
    share: float


def confusion_counts(
    label: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], num_classes: int
) -> Counts:
    """Counts the examples of each true class (row) and predicted class (column).

    Args:
      label: [n].
      predicted: [n], -1 where no class is predicted.
      num_classes: C.

    Returns:
      int64 [C, C], or [C, C + 1] if no class is predicted for an example.
    """
    from scipy.sparse import coo_array, csr_array  # slow to import, and only reports need it

    ones = np.ones(len(label), np.int64)
    none = predicted < 0
    shape = num_classes, num_classes + bool(none.any())
    predicted = np.where(none, num_classes, predicted)
    return csr_array(coo_array((ones, (label, predicted)), shape=shape))  # adds up duplicates


def class_accuracy(counts: Counts) -> npt.NDArray[np.float64]:
    """Returns the recall of each class, float64 [C]; NaN for a class without examples."""
    examples = counts.sum(axis=1)
    return np.where(examples > 0, counts.diagonal() / np.maximum(examples, 1), np.nan)


def class_precision(counts: Counts) -> npt.NDArray[np.float64]:
    """Returns the precision of each class, float64 [C]; NaN for a class without predictions."""
    return class_accuracy(counts[:, : counts.shape[0]].T)


def predicted_name(classes: Sequence[str], predicted: int) -> str:
    """Returns the name of a predicted class, or `NO_CLASS`."""
    return classes[predicted] if 0 <= predicted < len(classes) else NO_CLASS


def confused_pairs(counts: Counts) -> int:
    """Returns the number of pairs (true class, other predicted class) that occur."""
    return int(counts.count_nonzero() - np.count_nonzero(counts.diagonal()))


def worst_confusions(counts: Counts, most: int) -> list[Confusion]:
    """Returns the most frequent confusions. Ties are sorted by share, the largest first."""
    examples = counts.sum(axis=1)
    found = counts.tocoo()
    wrong = found.row != found.col
    label, predicted, times = found.row[wrong], found.col[wrong], found.data[wrong]
    share = times / examples[label]
    order = np.lexsort((predicted, label, -share, -times))[:most]  # the last key counts first
    return [
        Confusion(int(label[i]), int(predicted[i]), int(times[i]), float(share[i])) for i in order
    ]


def heat_pixels(counts: Counts) -> npt.NDArray[np.uint8]:
    """Draws a pixel per cell, uint8 [C, C, 4]. The opacity shows the cell's share of its row.

    The result is dense: use it for up to about a thousand classes.
    """
    shares = row_shares(counts)
    pixels = np.zeros((*shares.shape, 4), np.uint8)
    # This blue is visible on dark and on light pages.
    pixels[..., :3] = 40, 140, 215
    # The square root makes a single confusion among many examples visible.
    pixels[..., 3] = np.round(255 * np.sqrt(shares))
    return pixels


def row_shares(counts: Counts) -> npt.NDArray[np.float64]:
    """Divides each cell by the sum of its row, float64 [C, C], dense."""
    dense = counts.toarray()
    shares: npt.NDArray[np.float64] = dense / np.maximum(dense.sum(axis=1, keepdims=True), 1)
    return shares
