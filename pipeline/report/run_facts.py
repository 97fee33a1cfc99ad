"""The facts about a run that a report shows."""

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
    """Everything that is known about a run.

    Attributes:
      name: Name in a comparison.
      folder: Path of the run folder.
      config: Settings.
      rows: Rows of metrics.jsonl.
      classes: Names of the classes; empty if training has not started.
      counts: Number of examples per split.
      outcome: Content of outcome.json; None while the run trains, or if it was killed.
      starts: Rows of starts.jsonl, the oldest first.
      workers: Rows of workers.jsonl, the oldest first; empty if the job was not elastic.
      checkpoints: Steps of the checkpoints that are kept, ascending.
      best_step: Step of the best weights; None before the first evaluation.
      predictions: Predictions of the best weights.
      examples: Pictures of some of the predicted examples.
      left_out: What the report lacks and why, one sentence each.
    """

    name: str
    folder: str
    config: Config
    rows: Sequence[Row]
    classes: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    outcome: Mapping[str, Any] | None = None
    starts: Sequence[Mapping[str, Any]] = ()
    workers: Sequence[Mapping[str, Any]] = ()
    checkpoints: Sequence[int] = ()
    best_step: int | None = None
    predictions: Predictions | None = None
    examples: Examples | None = None
    left_out: Sequence[str] = ()

    def of_split(self, split: str) -> list[Row]:
        """The rows of a split, in order."""
        return [row for row in self.rows if row["split"] == split]

    def last(self, split: str) -> Row | None:
        """The newest row of a split; None without rows."""
        return next(iter(reversed(self.of_split(split))), None)

    def best_validation(self) -> Row | None:
        """The validation row of the best weights, or the newest validation row."""
        rows = self.of_split("validation")
        chosen = [row for row in rows if row["step"] == self.best_step]
        found = chosen or rows
        return found[-1] if found else None

    def curve(self, split: str, name: str) -> list[tuple[float, float]]:
        """(step, value) of a metric; NaN if a row lacks it."""
        return [(row["step"], _number(row.get(name))) for row in self.of_split(split)]

    def training_s(self) -> float:
        """Time in training steps, computed from the rates of the rows; without evaluations."""
        seconds, before = 0.0, 0
        for step, rate in self.curve("train", "examples_per_second"):
            if rate > 0:
                seconds += (step - before) * self.config.data.global_batch_size / rate
            before = int(step)
        return seconds


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
