"""The charts of a run over its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.report.axis import number, percent
from pipeline.report.html import Content, Html, details, element, table
from pipeline.report.line_chart import Chart, Line, Mark, draw_chart
from pipeline.report.run_facts import Row, RunFacts
from pipeline.runs.metrics_file import shows_top_5

STEP = "step (update)"
_SPLITS = ("train", "validation", "test")
_MEASURES = {
    "loss": ("Loss", "cross-entropy, nats", False),
    "accuracy": ("Top-1 accuracy", "share of examples", True),
    "top_5_accuracy": ("Top-5 accuracy", "share of examples", True),
}
# A table longer than this is not read; the whole is in metrics.jsonl.
_MOST_ROWS = 25


def learning_charts(run: RunFacts) -> list[Html]:
    """Loss, top-1 and top-5 (with more than five classes), of all splits on the same axes."""
    charts = []
    for measure, (title, unit, is_share) in _MEASURES.items():
        if measure == "top_5_accuracy" and not shows_top_5(len(run.classes)):
            continue
        lines = [
            Line(split, run.curve(split, measure), colour=i, dashed=i > 0, dots=i > 0)
            for i, split in enumerate(_SPLITS)
        ]
        written = percent if is_share else number
        charts.append(Chart(title, STEP, unit, lines, written=written))
    return _draw(charts)


def machine_charts(run: RunFacts) -> list[Html]:
    """Learning rate, gradient norm, throughput with what happened to the run, and waiting."""
    rate = run.curve("train", "examples_per_second")
    norm = run.curve("train", "gradient_norm")
    wait = run.curve("train", "input_wait_fraction")
    marks = [*_starts(run), *(Mark(step, "checkpoint") for step in saved_steps(run))]
    learning = run.curve("train", "learning_rate")
    return _draw(
        [
            Chart("Learning rate", STEP, "rate", [Line("learning rate", learning)], from_zero=True),
            Chart("Throughput", STEP, "images/s", [Line("images/s", rate)], marks, from_zero=True),
            Chart("Gradient norm before clipping", STEP, "norm", [Line("gradient norm", norm)]),
            Chart(
                "Waiting for input",
                STEP,
                "share of the time",
                [Line("share of the time", wait)],
                from_zero=True,
                written=percent,
            ),
        ]
    )


def saved_steps(run: RunFacts) -> list[int]:
    """Steps of rows at which training had stood still for a checkpoint since the row before."""
    return [int(step) for step, seconds in run.curve("train", "checkpoint_s") if seconds > 0]


def evaluations_table(run: RunFacts) -> Html | None:
    """The figures behind the charts, for those who do not see them; None without evaluations."""
    rows = [row for row in run.rows if row["split"] != "train"]
    if not rows:
        return None
    shown = _spread(rows, _MOST_ROWS)
    before = {row["step"]: row for row in run.of_split("train")}
    lines: list[tuple[Content, ...]] = []
    top_5 = shows_top_5(len(run.classes))
    for row in shown:
        train = before.get(row["step"], {})
        lines.append(
            (
                f"{row['step']:,}",
                f"{row['epoch']:.1f}",
                row["split"],
                _fixed(train.get("loss")),
                _share(train.get("accuracy")),
                _fixed(row["loss"]),
                _share(row["accuracy"]),
                *([_share(row["top_5_accuracy"])] if top_5 else []),
            )
        )
    names = ["step", "epoch", "split", "train loss", "train top-1", "loss", "top-1"]
    head = (*names, "top-5") if top_5 else tuple(names)
    all_of = f"{len(shown)} of {len(rows)} evaluations" if len(shown) < len(rows) else None
    return details("The evaluations as numbers", table(head, lines, all_of, class_="numbers"))


def grid(charts: Sequence[Html]) -> Html | None:
    """Charts beside one another where there is room."""
    return element("div", *charts, class_="charts") if charts else None


def _draw(charts: Sequence[Chart]) -> list[Html]:
    drawn = (draw_chart(chart) for chart in charts)
    return [chart for chart in drawn if chart is not None]


def _starts(run: RunFacts) -> list[Mark]:
    # The first start begins at step 0, where the axis is.
    return [Mark(s["checkpoint_step"], "start") for s in run.starts if s.get("checkpoint_step")]


def _spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows, evenly chosen, the last one among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _fixed(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2%}"
