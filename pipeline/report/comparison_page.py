"""The page of several runs beside one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from pipeline.config import all_settings, value_of
from pipeline.report.axis import number, percent
from pipeline.report.curves import STEP, grid
from pipeline.report.html import Content, Html, element, table
from pipeline.report.line_chart import COLOURS, Chart, Line, draw_chart
from pipeline.report.run_facts import Row, RunFacts
from pipeline.report.run_page import document, duration, written
from pipeline.runs.metrics_file import shows_top_5


def comparison_page(runs: Sequence[RunFacts]) -> Html:
    """Several runs as one HTML document: results, the settings that differ, and all curves.

    Args:
      runs: Two or more, with names that differ.
    """
    names = ", ".join(run.name for run in runs) if len(runs) < 5 else f"{len(runs)} runs"
    curves = grid(_charts(runs))
    return document(
        f"Comparison of {names}",
        element("h1", f"Comparison of {names}"),
        element("h2", "Results"),
        _results(runs),
        element("h2", "Settings that differ"),
        _differences(runs),
        element("h2", "Curves"),
        _more_than_colours(runs),
        curves or element("p", "No metrics have been written yet."),
    )


def _results(runs: Sequence[RunFacts]) -> Html:
    """A column a run; what none of them has is left out."""
    columns = [_result(run) for run in runs]
    rows: list[tuple[Content, ...]] = []
    for name in columns[0]:
        values = [column[name] for column in columns]
        if any(values):
            rows.append((name, *values))
    caption = "Validation: of the best weights. Training time: of the steps alone."
    return table(("", *(run.name for run in runs)), rows, caption, class_="numbers")


def _result(run: RunFacts) -> dict[str, str]:
    """What one run came to, "" for what it has not."""
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


def _differences(runs: Sequence[RunFacts]) -> Html:
    rows: list[tuple[Content, ...]] = []
    for setting in all_settings():
        values = [written(value_of(run.config, setting.key)) for run in runs]
        if setting.key != "run.dir" and len(set(values)) > 1:
            rows.append((setting.key, *values))
    if not rows:
        return element("p", "None: the runs have the same settings.")
    return table(("setting", *(run.name for run in runs)), rows)


def _charts(runs: Sequence[RunFacts]) -> list[Html]:
    charts = [
        _chart(runs, "Validation top-1", "share of examples", "validation", "accuracy", percent),
        _chart(runs, "Validation loss", "cross-entropy, nats", "validation", "loss"),
        _chart(runs, "Training top-1", "share of examples", "train", "accuracy", percent),
        _chart(runs, "Training loss", "cross-entropy, nats", "train", "loss"),
        _chart(runs, "Learning rate", "rate", "train", "learning_rate", from_zero=True),
        _chart(runs, "Throughput", "images/s", "train", "examples_per_second", from_zero=True),
    ]
    drawn = (draw_chart(chart) for chart in charts)
    return [chart for chart in drawn if chart is not None]


def _chart(
    runs: Sequence[RunFacts],
    title: str,
    unit: str,
    split: str,
    measure: str,
    write: Callable[[float, float | None], str] = number,
    from_zero: bool = False,
) -> Chart:
    # Past the colours there are, the same ones come again, dashed.
    lines = [
        Line(
            run.name,
            run.curve(split, measure),
            colour=i,
            dashed=i // COLOURS % 2 == 1,
            dots=split != "train",
        )
        for i, run in enumerate(runs)
    ]
    return Chart(title, STEP, unit, lines, from_zero=from_zero, written=write)


def _more_than_colours(runs: Sequence[RunFacts]) -> Html | None:
    if len(runs) <= 2 * COLOURS:
        return None
    return element("p", f"Of {len(runs)} runs, some share a colour.", class_="warn")
