"""Confusion counts: accuracy of each class, and the most frequent confusions.

The counts are sparse. There are at most as many as examples, and a dense matrix of 20,000 classes
would take 3.2 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array

# A csr_array (SciPy is not typed), int64 [C, C]: rows are labels, columns are predictions. Where
# the model predicts no class for some examples, a column for them is last: [C, C + 1].
Counts: TypeAlias = Any
NO_CLASS = "no class (NaN)"


class Confusion(NamedTuple):
    """A class that was taken for another.

    Attributes:
      label: What it is, a class number.
      predicted: What it was taken for; the number of classes: for none.
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
    """The number of examples of each class (row) taken for each class (column).

    Args:
      label: [n].
      predicted: [n], -1 where no class is predicted.
      num_classes: C.

    Returns:
      int64 [C, C], or [C, C + 1] where no class is predicted for an example.
    """
    ones = np.ones(len(label), np.int64)
    none = predicted < 0
    shape = num_classes, num_classes + bool(none.any())
    predicted = np.where(none, num_classes, predicted)
    return csr_array(coo_array((ones, (label, predicted)), shape=shape))  # adds up duplicates


def class_accuracy(counts: Counts) -> npt.NDArray[np.float64]:
    """The share of each class that was recognised, float64 [C]; NaN for one without examples."""
    examples = counts.sum(axis=1)
    return np.where(examples > 0, counts.diagonal() / np.maximum(examples, 1), np.nan)


def class_precision(counts: Counts) -> npt.NDArray[np.float64]:
    """The share of what was taken for each class that is of it, float64 [C]; NaN for none."""
    return class_accuracy(counts[:, : counts.shape[0]].T)


def predicted_name(classes: Sequence[str], predicted: int) -> str:
    """The name of a predicted class, or that there is none."""
    return classes[predicted] if 0 <= predicted < len(classes) else NO_CLASS


def confused_pairs(counts: Counts) -> int:
    """The number of pairs of different classes of which one was taken for the other."""
    return int(counts.count_nonzero() - np.count_nonzero(counts.diagonal()))


def worst_confusions(counts: Counts, most: int) -> list[Confusion]:
    """The most frequent confusions, then those of the largest share of their class."""
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
    """A pixel a cell, the more opaque the more of its row it holds, uint8 [C, C, 4].

    Dense: only for up to a thousand classes or so.
    """
    shares = row_shares(counts)
    pixels = np.zeros((*shares.shape, 4), np.uint8)
    # A blue that shows on dark pages and on light ones.
    pixels[..., :3] = 40, 140, 215
    # The root, so that a single confusion among many examples is seen.
    pixels[..., 3] = np.round(255 * np.sqrt(shares))
    return pixels


def row_shares(counts: Counts) -> npt.NDArray[np.float64]:
    """What part of its row each cell holds, float64 [C, C], dense."""
    dense = counts.toarray()
    shares: npt.NDArray[np.float64] = dense / np.maximum(dense.sum(axis=1, keepdims=True), 1)
    return shares
