"""The plain facts that a report is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import Config

Row = Mapping[str, Any]
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


@dataclass(frozen=True)
class RunFacts:
    """All that is known of a run.

    Attributes:
      name: What a comparison calls it.
      folder: Its path.
      config: Its settings.
      rows: Of metrics.jsonl.
      classes: Their names; empty where the training never began.
      counts: Examples a split.
      outcome: Of outcome.json; None while it trains, or where it was killed.
      starts: Of starts.jsonl, the first one first.
      checkpoints: Steps of those that are kept, ascending.
      best_step: Of the best weights; None before the first evaluation.
      predictions: Of the best weights.
      examples: Pictures of some of them.
      left_out: What the report lacks and why, a sentence each.
    """

    name: str
    folder: str
    config: Config
    rows: Sequence[Row]
    classes: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    outcome: Mapping[str, Any] | None = None
    starts: Sequence[Mapping[str, Any]] = ()
    checkpoints: Sequence[int] = ()
    best_step: int | None = None
    predictions: Predictions | None = None
    examples: Examples | None = None
    left_out: Sequence[str] = ()

    def of_split(self, split: str) -> list[Row]:
        """Rows of one split, in order."""
        return [row for row in self.rows if row["split"] == split]

    def last(self, split: str) -> Row | None:
        """The newest row of a split."""
        return next(iter(reversed(self.of_split(split))), None)

    def best_validation(self) -> Row | None:
        """The row of the best weights, or the newest one."""
        rows = self.of_split("validation")
        chosen = [row for row in rows if row["step"] == self.best_step]
        found = chosen or rows
        return found[-1] if found else None

    def curve(self, split: str, name: str) -> list[tuple[float, float]]:
        """(step, value) of a measure; NaN where a row has none."""
        return [(row["step"], _number(row.get(name))) for row in self.of_split(split)]

    def training_s(self) -> float:
        """Seconds in training steps, by the rates of the rows: evaluations are not counted."""
        seconds, before = 0.0, 0
        for step, rate in self.curve("train", "examples_per_second"):
            if rate > 0:
                seconds += (step - before) * self.config.data.global_batch_size / rate
            before = int(step)
        return seconds


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
