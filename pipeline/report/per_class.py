"""Confusion matrix and accuracy a class, readable for three classes and for a thousand."""

from __future__ import annotations

from collections.abc import Sequence

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
from pipeline.report.example_images import picture
from pipeline.report.html import (
    Content,
    Html,
    details,
    element,
    join,
    scrolling_table,
    table,
)
from pipeline.training.predictions import Predictions

# Classes up to which the matrix is a table of numbers, and up to which it is a picture.
_MOST_NUMBERS, _MOST_CELLS = 20, 250
# Classes up to which each has a row: a page with more is megabytes that nobody reads.
_MOST_ROWS = 1000
_WORST = 20
_SHORT = 3


def class_sections(found: Predictions | None, classes: Sequence[str]) -> Html | None:
    """Confusions and accuracy a class; None where there are no predictions."""
    if found is None:
        return None
    counts = confusion_counts(found.label, found.predicted, len(classes))
    few = len(classes) <= _MOST_NUMBERS
    of = f"{len(found.label):,} {found.split} examples, weights of step {found.step:,}"
    worst = _worst_table(classes, counts)
    if few:
        matrix = _matrix(classes, counts)
        return join(
            element("h2", "Classes"),
            element("p", f"Of {of}.", class_="soft"),
            element(
                "div",
                element("div", element("h3", "Confusion matrix"), matrix),
                element("div", element("h3", "Accuracy a class"), _accuracy_table(classes, counts)),
                class_="sides",
            ),
            element("h3", "Most frequent confusions"),
            worst,
        )
    drawn = _heat_picture(counts) if len(classes) <= _MOST_CELLS else None
    return join(
        element("h2", "Classes"),
        element("p", f"{len(classes):,} classes; of {of}.", class_="soft"),
        element(
            "div",
            element("div", element("h3", "Most frequent confusions"), worst),
            element("div", element("h3", "Accuracy a class"), _accuracy_summary(classes, counts)),
            class_="sides",
        ),
        drawn,
        details(_accuracy_title(len(classes)), _accuracy_table(classes, counts)),
    )


def _matrix(classes: Sequence[str], counts: Counts) -> Html:
    rows = []
    for name, line, share in zip(classes, counts.toarray(), row_shares(counts), strict=True):
        cells = [_cell(int(n), float(s)) for n, s in zip(line, share, strict=True)]
        # Its end is cut off where it is long; the title has the whole.
        rows.append(element("tr", element("th", name, scope="row", title=name), *cells))
    caption = "A row is what it is, a column what it was taken for; number of examples"
    columns = (predicted_name(classes, i) for i in range(counts.shape[1]))
    names = (element("th", element("span", name), scope="col") for name in columns)
    head = element("tr", element("td", class_="none"), *names)
    # Names of up to three characters fit above their columns, others are turned.
    style = "matrix" if max(map(len, classes)) <= _SHORT else "matrix long"
    return scrolling_table(element("thead", head), element("tbody", *rows), caption, style)


def _cell(count: int, share: float) -> Html:
    style = "strong" if share > 0.6 else None if count else "none"
    return element("td", count or "·", class_=style, style=f"--share:{share:.2f}")


def _worst_table(classes: Sequence[str], counts: Counts) -> Html:
    worst = worst_confusions(counts, _WORST)
    if not worst:
        return element("p", "There is none.")
    rows: list[tuple[Content, ...]] = [
        (classes[c.label], predicted_name(classes, c.predicted), c.times, f"{c.share:.1%}")
        for c in worst
    ]
    number = confused_pairs(counts)
    return table(
        ("is", "taken for", "times", "of its class"),
        rows,
        f"{len(worst)} of {number:,} pairs of classes that were confused",
    )


def _heat_picture(counts: Counts) -> Html:
    """A pixel a cell, stronger where more of a row's examples are."""
    pixels = heat_pixels(counts)
    off = 1.0 - counts.diagonal().sum() / max(counts.sum(), 1)
    alt = (
        f"Confusion matrix of {counts.shape[0]} classes, a cell a pair: the diagonal is what was "
        f"recognised, {off:.1%} of the examples are beside it. The table above names the worst."
    )
    # Enlarged, so that it is not blurred where a browser does not keep pixels sharp.
    scale = max(1, 600 // counts.shape[0])
    large = pixels.repeat(scale, 0).repeat(scale, 1)
    return join(
        element("h3", "Confusion matrix"),
        element(
            "p",
            "Rows from above: what it is. Columns from the left: what it was taken for. Classes in "
            "the order of their numbers.",
            class_="soft",
        ),
        picture(large, alt, class_="heat"),
    )


def _accuracy_title(classes: int) -> str:
    if classes <= _MOST_ROWS:
        return f"Accuracy of all {classes:,} classes"
    return (
        f"Accuracy of the {_MOST_ROWS:,} worst of {classes:,} classes "
        "(`vit evaluate --json --details` prints all)"
    )


def _accuracy_table(classes: Sequence[str], counts: Counts) -> Html:
    """Every class, or the first thousand, the worst first."""
    accuracy = class_accuracy(counts)
    # Classes without examples come last.
    order = np.argsort(np.where(np.isnan(accuracy), 2.0, accuracy), kind="stable")
    return _rows_of(classes, counts, accuracy, order[:_MOST_ROWS].tolist())


def _accuracy_summary(classes: Sequence[str], counts: Counts) -> Html:
    """How accuracy is spread over the classes, and the worst of them."""
    accuracy = class_accuracy(counts)
    there = np.flatnonzero(~np.isnan(accuracy))
    order = there[np.argsort(accuracy[there], kind="stable")]
    names = ("least", "lower quartile", "median", "upper quartile", "most")
    values = np.quantile(accuracy[there], [0, 0.25, 0.5, 0.75, 1])
    spread = ", ".join(f"{name} {v:.1%}" for name, v in zip(names, values, strict=True))
    return join(
        element("p", spread, class_="soft"),
        _rows_of(classes, counts, accuracy, order[:_WORST].tolist()),
    )


def _rows_of(
    classes: Sequence[str], counts: Counts, accuracy: npt.NDArray[np.float64], order: list[int]
) -> Html:
    examples = counts.sum(axis=1)
    rows: list[tuple[Content, ...]] = []
    for i in order:
        if np.isnan(accuracy[i]):
            rows.append((classes[i], "no examples", 0, None))
            continue
        filled = element("i", style=f"width:{accuracy[i]:.1%}")
        bar = element("span", filled, class_="bar", aria_hidden="true")
        rows.append((classes[i], f"{accuracy[i]:.1%}", f"{examples[i]:,}", bar))
    return table(("class", "accuracy", "examples", None), rows, class_="numbers")
