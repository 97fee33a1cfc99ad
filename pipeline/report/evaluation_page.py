"""A page on how a model does on some data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.monitor.bars import figure
from pipeline.report.html import Content, Html, element, join, table
from pipeline.report.per_class import class_sections
from pipeline.report.run_page import document
from pipeline.runs.metrics_file import shows_top_5
from pipeline.training.predictions import Predictions

# Bounds, examples, mean confidence and accuracy of predictions of about the same confidence.
Bin = tuple[float, float, int, float, float]


def evaluation_page(
    title: str,
    splits: Sequence[tuple[Predictions, Sequence[str], Mapping[str, Any], Sequence[Bin]]],
) -> Html:
    """One HTML document with metrics, classes, confusions and calibration of each split.

    Args:
      title: Of the page.
      splits: Of each its predictions, the class names, loss, accuracy, top_5_accuracy and
        calibration_error, and bins of confidence.
    """
    parts = [join(*_split(*split)) for split in splits]
    return document(title, element("h1", title), *parts)


def _split(
    predictions: Predictions,
    classes: Sequence[str],
    metrics: Mapping[str, Any],
    bins: Sequence[Bin],
) -> list[Content]:
    values = {
        "accuracy": f"{metrics['accuracy']:.2%}",
        **({"top-5": f"{metrics['top_5_accuracy']:.2%}"} if shows_top_5(len(classes)) else {}),
        "loss": f"{metrics['loss']:.4f}",
        "calibration error": figure(metrics["calibration_error"], ".2%"),
    }
    tiles = [
        element("div", element("dt", f"{predictions.split} {name}"), element("dd", value))
        for name, value in values.items()
    ]
    return [
        element("dl", *tiles, class_="tiles"),
        class_sections(predictions, classes),
        element("h2", "Calibration"),
        _reliability(bins),
    ]


def _reliability(bins: Sequence[Bin]) -> Html:
    """How often predictions of about the same confidence are right."""
    rows: list[tuple[Content, ...]] = []
    for above, up_to, examples, confidence, accuracy in bins:
        if examples:
            filled = element("i", style=f"width:{accuracy:.1%}")
            bar = element("span", filled, class_="bar", aria_hidden="true")
            share = f"{confidence:.1%}", f"{accuracy:.1%}", bar
            rows.append((f"{above:.1%} to {up_to:.1%}", f"{examples:,}", *share))
    head = ("confidence", "examples", "mean confidence", "accuracy", None)
    return table(head, rows, "Where these two differ, it is right more or less often than it says",
                 class_="numbers")  # fmt: skip
