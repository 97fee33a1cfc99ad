"""Confusions and accuracy per class, readable for three classes and for a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.report.confusion import (
    Counts,
    class_accuracy,
    confused_pairs,
    confusion_counts,
    heat_pixels,
    predicted_name,
    row_shares,
    worst_confusions,
)
from pipeline.report.example_images import Picture, picture
from pipeline.training.predictions import Predictions

# Up to so many classes the matrix is a table of numbers, and up to so many it is a picture.
_MAX_NUMBERS, _MAX_CELLS = 20, 250
# Up to so many classes each one has a row: a page with more is megabytes that nobody reads.
_MAX_ROWS = 1000
_WORST = 20
# Names up to this length fit above their columns; longer ones are rotated.
_SHORT = 3
_HEAT_SIDE = 600


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix.

    Attributes:
      examples: Number of examples.
      share: Of the row's examples, in 0..1.
    """

    examples: int
    share: float


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix as numbers.

    Attributes:
      columns: Names of the predicted classes.
      rows: Name of the true class, and its cells.
      has_long_names: Whether the names of the columns are rotated.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    has_long_names: bool


# Class name, accuracy as text, number of examples as text, and accuracy in 0..1 or None.
AccuracyRow = tuple[str, str, str, float | None]


@dataclass(frozen=True)
class ClassFacts:
    """What a page shows of the classes of a split.

    Attributes:
      num_classes: C.
      predictions: Of which split, how many examples, and which weights.
      matrix: The confusion matrix as numbers, for few classes.
      heat: The confusion matrix as a picture, for more classes.
      worst: Rows of the most frequent confusions: true class, predicted class, number, share.
      num_pairs: Number of pairs of classes that were confused.
      accuracy: Classes and their accuracy, the worst first; at most `max_rows`.
      max_rows: The most rows that `accuracy` can have.
      spread: Quartiles of the accuracy, for more than a few classes.
      worst_classes: The first rows of `accuracy` that have examples.
    """

    num_classes: int
    predictions: str
    matrix: Matrix | None
    heat: Picture | None
    worst: Sequence[tuple[str, str, int, str]]
    num_pairs: int
    accuracy: Sequence[AccuracyRow]
    max_rows: int
    spread: Sequence[tuple[str, float]]
    worst_classes: Sequence[AccuracyRow]


def class_facts(found: Predictions | None, classes: Sequence[str]) -> ClassFacts | None:
    """Confusions and accuracy per class; None without predictions."""
    if found is None:
        return None
    counts = confusion_counts(found.label, found.predicted, len(classes))
    accuracy = class_accuracy(counts)
    # Classes without examples come last.
    order = np.argsort(np.where(np.isnan(accuracy), 2.0, accuracy), kind="stable")
    known = order[~np.isnan(accuracy[order])]
    has_numbers = len(classes) <= _MAX_NUMBERS
    has_heat = not has_numbers and len(classes) <= _MAX_CELLS
    return ClassFacts(
        num_classes=len(classes),
        predictions=(
            f"{len(found.label):,} {found.split} examples, weights of step {found.step:,}"
        ),
        matrix=_matrix(classes, counts) if has_numbers else None,
        heat=_heat(counts) if has_heat else None,
        worst=[
            (classes[c.label], predicted_name(classes, c.predicted), c.times, f"{c.share:.1%}")
            for c in worst_confusions(counts, _WORST)
        ],
        num_pairs=confused_pairs(counts),
        accuracy=_rows(classes, counts, accuracy, order[:_MAX_ROWS].tolist()),
        max_rows=_MAX_ROWS,
        spread=[] if has_numbers else _spread(accuracy[known]),
        worst_classes=_rows(classes, counts, accuracy, known[:_WORST].tolist()),
    )


def _matrix(classes: Sequence[str], counts: Counts) -> Matrix:
    shares = row_shares(counts)
    rows = [
        (name, [Cell(int(n), float(s)) for n, s in zip(line, share, strict=True)])
        for name, line, share in zip(classes, counts.toarray(), shares, strict=True)
    ]
    columns = [predicted_name(classes, i) for i in range(counts.shape[1])]
    return Matrix(columns, rows, max(map(len, classes)) > _SHORT)


def _heat(counts: Counts) -> Picture:
    """A pixel per cell: the larger its share of the row, the stronger its color."""
    pixels = heat_pixels(counts)
    off = 1.0 - counts.diagonal().sum() / max(counts.sum(), 1)
    alt = (
        f"Confusion matrix of {counts.shape[0]} classes. Correct predictions are on the diagonal; "
        f"{off:.1%} of the examples are off the diagonal. The table above lists the largest cells."
    )
    # Enlarged, since some browsers blur an image that they enlarge.
    scale = max(1, _HEAT_SIDE // counts.shape[0])
    return picture(pixels.repeat(scale, 0).repeat(scale, 1), alt, style="heat")


def _spread(accuracy: npt.NDArray[np.float64]) -> list[tuple[str, float]]:
    """Minimum, quartiles and maximum of the accuracy of the classes that have examples."""
    names = ("minimum", "lower quartile", "median", "upper quartile", "maximum")
    values = np.quantile(accuracy, [0, 0.25, 0.5, 0.75, 1])
    return list(zip(names, values.tolist(), strict=True))


def _rows(
    classes: Sequence[str], counts: Counts, accuracy: npt.NDArray[np.float64], order: list[int]
) -> list[AccuracyRow]:
    examples = counts.sum(axis=1)
    return [
        (classes[i], "no examples", "0", None)
        if np.isnan(accuracy[i])
        else (classes[i], f"{accuracy[i]:.1%}", f"{examples[i]:,}", float(accuracy[i]))
        for i in order
    ]
