"""The plain facts that a report is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import Config
from pipeline.training.predictions import Examples, Predictions

Row = Mapping[str, Any]


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
