"""The page of an evaluation of a model on a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.monitor.bars import format_number
from pipeline.report.page import render
from pipeline.report.per_class import ClassFacts, class_facts
from pipeline.report.run_page import Tile
from pipeline.runs.metrics_file import shows_top_5
from pipeline.training.predictions import Predictions

# Bounds, examples, mean confidence and accuracy of predictions of about the same confidence.
Bin = tuple[float, float, int, float, float]


@dataclass(frozen=True)
class SplitFacts:
    """What the page shows of a split.

    Attributes:
      tiles: Metrics.
      classes: Confusions and accuracy per class.
      calibration: Confidence, examples, mean confidence, and accuracy twice: as text and in 0..1.
    """

    tiles: Sequence[Tile]
    classes: ClassFacts | None
    calibration: Sequence[tuple[str, str, str, str, float]]


def evaluation_page(
    title: str,
    splits: Sequence[tuple[Predictions, Sequence[str], Mapping[str, Any], Sequence[Bin]]],
) -> str:
    """Renders metrics, classes, confusions and calibration of each split as one HTML document.

    Args:
      title: Of the page.
      splits: For each split: its predictions; the class names; loss, accuracy, top_5_accuracy and
        calibration_error; and bins of confidence.
    """
    return render("evaluation.html", title=title, splits=[_split(*split) for split in splits])


def _split(
    predictions: Predictions,
    classes: Sequence[str],
    metrics: Mapping[str, Any],
    bins: Sequence[Bin],
) -> SplitFacts:
    values = {
        "accuracy": f"{metrics['accuracy']:.2%}",
        **({"top-5": f"{metrics['top_5_accuracy']:.2%}"} if shows_top_5(len(classes)) else {}),
        "loss": f"{metrics['loss']:.4f}",
        "calibration error": format_number(metrics["calibration_error"], ".2%"),
    }
    tiles = [Tile(f"{predictions.split} {name}", value) for name, value in values.items()]
    return SplitFacts(tiles, class_facts(predictions, classes), _calibration(bins))


def _calibration(bins: Sequence[Bin]) -> list[tuple[str, str, str, str, float]]:
    return [
        (
            f"{above:.1%} to {up_to:.1%}",
            f"{examples:,}",
            f"{confidence:.1%}",
            f"{accuracy:.1%}",
            accuracy,
        )
        for above, up_to, examples, confidence, accuracy in bins
        if examples
    ]
