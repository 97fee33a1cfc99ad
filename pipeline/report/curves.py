"""The charts of a run over its steps, and the table of its evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.axis import number, percent
from pipeline.report.line_chart import Chart, Drawing, Line, Mark, lay_out_all
from pipeline.report.run_facts import Row, RunFacts
from pipeline.runs.metrics_file import shows_top_5

STEP = "step (update)"
_SPLITS = ("train", "validation", "test")
_MEASURES = {
    "loss": ("Loss", "cross-entropy, nats", False),
    "accuracy": ("Top-1 accuracy", "share of examples", True),
    "top_5_accuracy": ("Top-5 accuracy", "share of examples", True),
}
# Nobody reads a longer table, and metrics.jsonl has all rows.
_MAX_ROWS = 25


@dataclass(frozen=True)
class EvaluationTable:
    """Evaluations as text.

    Attributes:
      head: Column names.
      rows: One row per evaluation.
      caption: How many of the evaluations are shown; None if all are.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str | None


def learning_charts(run: RunFacts) -> list[Drawing]:
    """Loss, top-1 and top-5 (with more than five classes), with all splits in one chart."""
    charts = []
    for measure, (title, unit, is_share) in _MEASURES.items():
        if measure == "top_5_accuracy" and not shows_top_5(len(run.classes)):
            continue
        lines = [
            Line(split, run.curve(split, measure), color=i, dashed=i > 0, dots=i > 0)
            for i, split in enumerate(_SPLITS)
        ]
        charts.append(Chart(title, STEP, unit, lines, format_y=percent if is_share else number))
    return lay_out_all(charts)


def machine_charts(run: RunFacts) -> list[Drawing]:
    """Learning rate, throughput with starts and checkpoints, gradient norm, and input wait."""
    rate = run.curve("train", "examples_per_second")
    norm = run.curve("train", "gradient_norm")
    wait = run.curve("train", "input_wait_fraction")
    marks = [*_starts(run), *(Mark(step, "checkpoint") for step in saved_steps(run))]
    learning = run.curve("train", "learning_rate")
    return lay_out_all(
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
                format_y=percent,
            ),
        ]
    )


def saved_steps(run: RunFacts) -> list[int]:
    """Steps of the rows before which training paused for a checkpoint."""
    return [int(step) for step, seconds in run.curve("train", "checkpoint_s") if seconds > 0]


def evaluations_table(run: RunFacts) -> EvaluationTable | None:
    """The numbers behind the charts, for readers who cannot see them; None without evaluations."""
    rows = [row for row in run.rows if row["split"] != "train"]
    if not rows:
        return None
    shown = _spread(rows, _MAX_ROWS)
    train_rows = {row["step"]: row for row in run.of_split("train")}
    has_top_5 = shows_top_5(len(run.classes))
    lines = []
    for row in shown:
        train = train_rows.get(row["step"], {})
        lines.append(
            (
                f"{row['step']:,}",
                f"{row['epoch']:.1f}",
                row["split"],
                _fixed(train.get("loss")),
                _share(train.get("accuracy")),
                _fixed(row["loss"]),
                _share(row["accuracy"]),
                *([_share(row["top_5_accuracy"])] if has_top_5 else []),
            )
        )
    head = ["step", "epoch", "split", "train loss", "train top-1", "loss", "top-1"]
    caption = f"{len(shown)} of {len(rows)} evaluations" if len(shown) < len(rows) else None
    return EvaluationTable([*head, "top-5"] if has_top_5 else head, lines, caption)


def _starts(run: RunFacts) -> list[Mark]:
    # The first start is at step 0, on the axis itself.
    return [Mark(s["checkpoint_step"], "start") for s in run.starts if s.get("checkpoint_step")]


def _spread(rows: Sequence[Row], most: int) -> list[Row]:
    """Selects at most `most` rows at even distances, including the last one."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _fixed(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2%}"
