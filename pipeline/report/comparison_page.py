"""The page that compares several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from pipeline.config import all_settings, value_of
from pipeline.report.axis import number, percent
from pipeline.report.curves import STEP
from pipeline.report.line_chart import NUM_COLORS, Chart, Drawing, Line, lay_out_all
from pipeline.report.page import render
from pipeline.report.run_facts import Row, RunFacts
from pipeline.report.run_page import duration, written
from pipeline.runs.metrics_file import shows_top_5


def comparison_page(runs: Sequence[RunFacts]) -> str:
    """Renders several runs as one HTML document: results, settings that differ, and curves.

    Args:
      runs: Two or more, with different names.
    """
    names = [run.name for run in runs]
    listed = ", ".join(names) if len(runs) < 5 else f"{len(runs)} runs"
    return render(
        "comparison.html",
        title=f"Comparison of {listed}",
        names=names,
        results=_results(runs),
        differences=_differences(runs),
        charts=_charts(runs),
        shares_colors=len(runs) > 2 * NUM_COLORS,
    )


def _results(runs: Sequence[RunFacts]) -> list[tuple[str, ...]]:
    """A row per measure and a column per run, without measures that no run has."""
    columns = [_result(run) for run in runs]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return [row for row in rows if any(row[1:])]


def _result(run: RunFacts) -> dict[str, str]:
    """The result of one run by measure; "" where it has none."""
    rates = [rate for _, rate in run.curve("train", "examples_per_second") if rate > 0]
    train = run.last("train")
    return {
        **_figures("test", run.last("test"), len(run.classes)),
        **_figures("validation", run.best_validation(), len(run.classes)),
        "steps": "" if train is None else f"{train['step']:,}",
        "images/s, median": f"{median(rates):,.0f}" if rates else "",
        "training time": duration(run.training_s()) if rates else "",
        "outcome": "not ended" if run.outcome is None else run.outcome["outcome"],
    }


def _figures(split: str, row: Row | None, num_classes: int) -> dict[str, str]:
    forms = {
        "accuracy": ("top-1", ".2%"),
        "top_5_accuracy": ("top-5", ".2%"),
        "loss": ("loss", ".4f"),
    }
    if not shows_top_5(num_classes):
        row = row and {**row, "top_5_accuracy": None}
    return {
        f"{split} {name}": format(row[measure], form) if row and row[measure] is not None else ""
        for measure, (name, form) in forms.items()
    }


def _differences(runs: Sequence[RunFacts]) -> list[tuple[str, ...]]:
    """Settings whose values differ: the key, and the value of each run."""
    rows = []
    for setting in all_settings():
        values = [written(value_of(run.config, setting.key)) for run in runs]
        if setting.key != "run.dir" and len(set(values)) > 1:
            rows.append((setting.key, *values))
    return rows


def _charts(runs: Sequence[RunFacts]) -> list[Drawing]:
    charts = [
        _chart(runs, "Validation top-1", "share of examples", "validation", "accuracy", percent),
        _chart(runs, "Validation loss", "cross-entropy, nats", "validation", "loss"),
        _chart(runs, "Training top-1", "share of examples", "train", "accuracy", percent),
        _chart(runs, "Training loss", "cross-entropy, nats", "train", "loss"),
        _chart(runs, "Learning rate", "rate", "train", "learning_rate", from_zero=True),
        _chart(runs, "Throughput", "images/s", "train", "examples_per_second", from_zero=True),
    ]
    return lay_out_all(charts)


def _chart(
    runs: Sequence[RunFacts],
    title: str,
    unit: str,
    split: str,
    measure: str,
    format_y: Callable[[float, float | None], str] = number,
    from_zero: bool = False,
) -> Chart:
    # After the last color, the colors repeat with dashed lines.
    lines = [
        Line(
            run.name,
            run.curve(split, measure),
            color=i,
            dashed=i // NUM_COLORS % 2 == 1,
            dots=split != "train",
        )
        for i, run in enumerate(runs)
    ]
    return Chart(title, STEP, unit, lines, from_zero=from_zero, format_y=format_y)
