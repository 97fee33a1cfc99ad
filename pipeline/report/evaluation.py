"""What an evaluation tells beyond three numbers: classes, confusions, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.monitor.bars import figure
from pipeline.report.calibration import Bin, calibration_error, reliability
from pipeline.report.confusion import (
    Counts,
    class_accuracy,
    class_precision,
    confusion_counts,
    predicted_name,
    worst_confusions,
)
from pipeline.training.predictions import Predictions

_SHOWN = 20


@dataclass(frozen=True)
class Evaluation:
    """The predictions of a split in figures.

    Attributes:
      classes: C names.
      predictions: Of each example.
      counts: Examples of a class (row) taken for another (column), int64 [C, C], sparse.
      bins: Of confidence.
    """

    classes: Sequence[str]
    predictions: Predictions
    counts: Counts
    bins: list[Bin]

    @property
    def metrics(self) -> dict[str, float | None]:
        """As rows of metrics have them, and the calibration error."""
        said = self.predictions
        return {
            "loss": float(np.mean(said.loss, dtype=np.float64)),
            "accuracy": float(np.mean(said.predicted == said.label)),
            "top_5_accuracy": float(np.mean((said.top == said.label[:, None]).any(axis=1))),
            "calibration_error": calibration_error(self.bins),
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """Class, examples, recall and precision (None where there are none), the worst first."""
        recall = class_accuracy(self.counts)
        precision = class_precision(self.counts)
        examples = self.counts.sum(axis=1)
        order = np.argsort(np.where(np.isnan(recall), 2.0, recall), kind="stable")
        return [
            {
                "class": self.classes[i],
                "examples": int(examples[i]),
                "recall": _known(recall[i]),
                "precision": _known(precision[i]),
            }
            for i in order.tolist()
        ]

    def to_json(self) -> dict[str, Any]:
        """All of it; the confusion matrix as [class, taken for, times] where it is not 0."""
        pairs = self.counts.tocoo()  # in the order of rows and columns
        return {
            **self.metrics,
            "calibration": [
                {**b._asdict(), "confidence": _known(b.confidence), "accuracy": _known(b.accuracy)}
                for b in self.bins
            ],
            "classes": self.class_rows(),
            "confusion": [
                [self.classes[i], predicted_name(self.classes, j), int(times)]
                for i, j, times in zip(pairs.row, pairs.col, pairs.data, strict=True)
            ],
        }

    def lines(self, everything: bool = False) -> list[str]:
        """For a terminal: calibration, classes, worst confusions; the first 20 of each."""
        rows = [row for row in self.class_rows() if everything or row["examples"]]
        shown = rows if everything else rows[:_SHOWN]
        width = max(len("class"), *(len(name) for name in self.classes))
        error = figure(self.metrics["calibration_error"], ".2%")
        text = [
            f"calibration error {error} ({len(self.bins)} bins)",
            "",
            f"{'class':<{width}}  examples   recall  precision",
        ]
        for row in shown:
            numbers = f"{_share(row['recall']):>7}  {_share(row['precision']):>9}"
            text.append(f"{row['class']:<{width}}  {row['examples']:>8,}  {numbers}")
        if len(shown) < len(rows):
            text.append(f"... and {len(rows) - len(shown):,} classes better than these")
        worst = worst_confusions(self.counts, _SHOWN)
        second = max(width, len("taken for"))
        if worst:
            text += ["", f"{'is':<{width}}  {'taken for':<{second}}  times  of its class"]
        for one in worst:
            taken_for = predicted_name(self.classes, one.predicted)
            pair = f"{self.classes[one.label]:<{width}}  {taken_for:<{second}}"
            text.append(f"{pair}  {one.times:>5,}  {one.share:>12.1%}")
        return text


def evaluate_predictions(predictions: Predictions, classes: Sequence[str]) -> Evaluation:
    """The figures of a split's predictions.

    Args:
      predictions: Of each example that could be read.
      classes: C names.
    """
    said = predictions
    counts = confusion_counts(said.label, said.predicted, len(classes))
    known = said.predicted >= 0
    confidence, right = said.probability[known, 0], said.predicted[known] == said.label[known]
    bins = reliability(confidence, right)
    return Evaluation(classes, predictions, counts, bins)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _share(value: float | None) -> str:
    return figure(value, ".1%")
