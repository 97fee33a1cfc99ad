"""Predictions of a model for a split, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Predictions:
    """Predictions for each readable example of a split.

    Attributes:
      split: Name of the split.
      step: Step of the weights.
      data: Fingerprint of the split; empty if it was not computed.
      index: int64 [n], index of each example in the split, ascending.
      label: int32 [n], the labels.
      top: int32 [n, k], the most probable classes in descending order; k is 5, or the number of
        classes if it is smaller. -1 if a logit is NaN, so that no class is predicted.
      probability: float32 [n, k], probabilities of these classes.
      label_probability: float32 [n], probability of the label.
      loss: float32 [n], cross-entropy.
    """

    split: str
    step: int
    data: str
    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int32]
    top: npt.NDArray[np.int32]
    probability: npt.NDArray[np.float32]
    label_probability: npt.NDArray[np.float32]
    loss: npt.NDArray[np.float32]

    @property
    def predicted(self) -> npt.NDArray[np.int32]:
        """int32 [n], the most probable class of each example; -1 if there is none."""
        return self.top[:, 0]

    def worst(self, count: int) -> list[int]:
        """Row numbers of the wrong predictions with the highest probability, in that order."""
        wrong = np.flatnonzero(self.predicted != self.label)
        certain = np.argsort(-self.probability[wrong, 0], kind="stable")
        return wrong[certain[:count]].tolist()

    def best(self, count: int) -> list[int]:
        """Row numbers of correct predictions with the highest probability, one per class first."""
        right = np.flatnonzero(self.predicted == self.label)
        right = right[np.argsort(-self.label_probability[right], kind="stable")]
        _, first = np.unique(self.label[right], return_index=True)
        others = np.setdiff1d(np.arange(len(right)), first)
        return right[np.concatenate([np.sort(first), others])][:count].tolist()


@dataclass(frozen=True)
class Examples:
    """Small pictures of examples for the report.

    Attributes:
      index: int64 [m], indices of examples in the split of the predictions.
      image: uint8 [m, s, s, 3], the model's input images before normalization.
      name: m names: files, or indices in the split.
      augmented: uint8 [n, e, s, s, 3], augmented training examples in the first e epochs.
      augmented_label: int32 [n], their labels.
    """

    index: npt.NDArray[np.int64]
    image: Pixels
    name: Sequence[str]
    augmented: Pixels
    augmented_label: npt.NDArray[np.int32]
