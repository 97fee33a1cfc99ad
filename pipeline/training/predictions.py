"""Predictions of a model for a split, as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Predictions:
    """What the best weights say of each example of a split that could be read.

    Attributes:
      split: Its name.
      step: Of the weights.
      data: The fingerprint of the split; empty where it was not taken.
      index: int64 [n], the examples' places in the split, ascending.
      label: int32 [n], what they are.
      top: int32 [n, k], the likeliest classes, the likeliest first; k is 5, or all classes. -1
        where a logit is NaN: then no class is predicted.
      probability: float32 [n, k], of those.
      label_probability: float32 [n], of the label.
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
        """int32 [n], the likeliest class of each, -1 where there is none."""
        return self.top[:, 0]

    def worst(self, count: int) -> list[int]:
        """Places in the arrays of the mistakes that were most certain, the most certain first."""
        wrong = np.flatnonzero(self.predicted != self.label)
        certain = np.argsort(-self.probability[wrong, 0], kind="stable")
        return wrong[certain[:count]].tolist()

    def best(self, count: int) -> list[int]:
        """Likewise of those recognised most certainly, each of another class while there is one."""
        right = np.flatnonzero(self.predicted == self.label)
        right = right[np.argsort(-self.label_probability[right], kind="stable")]
        _, first = np.unique(self.label[right], return_index=True)
        others = np.setdiff1d(np.arange(len(right)), first)
        return right[np.concatenate([np.sort(first), others])][:count].tolist()


@dataclass(frozen=True)
class Examples:
    """Pictures, small enough for a page.

    Attributes:
      index: int64 [m], of examples of the predictions' split.
      image: uint8 [m, s, s, 3], as the model sees them, but for the normalisation.
      name: m names: files, or places in the split.
      augmented: uint8 [n, e, s, s, 3], training examples in the first e epochs.
      augmented_label: int32 [n].
    """

    index: npt.NDArray[np.int64]
    image: Pixels
    name: Sequence[str]
    augmented: Pixels
    augmented_label: npt.NDArray[np.int32]
