"""Classes, confusions and calibration of the predictions for a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.monitor.bars import format_number
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
class PredictionMetrics:
    """The evaluation of a split.

    Attributes:
      classes: C names.
      predictions: One per example.
      counts: Examples by true class (row) and predicted class (column), int64 [C, C], sparse.
      bins: Predictions by confidence.
    """

    classes: Sequence[str]
    predictions: Predictions
    counts: Counts
    bins: list[Bin]

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics, named as in metrics.jsonl, and the calibration error."""
        found = self.predictions
        return {
            "loss": float(np.mean(found.loss, dtype=np.float64)),
            "accuracy": float(np.mean(found.predicted == found.label)),
            "top_5_accuracy": float(np.mean((found.top == found.label[:, None]).any(axis=1))),
            "calibration_error": calibration_error(self.bins),
        }

    def class_rows(self) -> list[dict[str, Any]]:
        """Class, examples, recall and precision (None if undefined), the worst recall first."""
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
        """Returns everything as JSON values; confusions as [true class, predicted class, times]."""
        pairs = self.counts.tocoo()  # sorted by row and column
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
        """Returns lines for a terminal: calibration, classes, and the most frequent confusions.

        Args:
          everything: Lists every class, not only the 20 worst.
        """
        rows = [row for row in self.class_rows() if everything or row["examples"]]
        shown = rows if everything else rows[:_SHOWN]
        width = max(len("class"), *(len(name) for name in self.classes))
        error = format_number(self.metrics["calibration_error"], ".2%")
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
        first, second = max(width, len("true class")), max(width, len("predicted as"))
        if worst:
            text += [
                "",
                f"{'true class':<{first}}  {'predicted as':<{second}}  times  of its class",
            ]
        for one in worst:
            predicted = predicted_name(self.classes, one.predicted)
            pair = f"{self.classes[one.label]:<{first}}  {predicted:<{second}}"
            text.append(f"{pair}  {one.times:>5,}  {one.share:>12.1%}")
        return text


def evaluate_predictions(predictions: Predictions, classes: Sequence[str]) -> PredictionMetrics:
    """Evaluates the predictions for a split.

    Args:
      predictions: One per example that could be read.
      classes: C names.
    """
    label, predicted = predictions.label, predictions.predicted
    counts = confusion_counts(label, predicted, len(classes))
    known = predicted >= 0
    confidence, right = predictions.probability[known, 0], predicted[known] == label[known]
    bins = reliability(confidence, right)
    return PredictionMetrics(classes, predictions, counts, bins)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _share(value: float | None) -> str:
    return format_number(value, ".1%")
