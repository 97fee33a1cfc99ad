"""The page of one run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from statistics import median
from typing import Any

from pipeline.config import AugmentConfig, Config, all_settings, value_of
from pipeline.report.curves import (
    evaluations_table,
    grid,
    learning_charts,
    machine_charts,
    saved_steps,
)
from pipeline.report.example_images import augmented_section, examples_sections
from pipeline.report.html import Content, Html, details, element, join, table
from pipeline.report.per_class import class_sections
from pipeline.report.run_facts import Row, RunFacts
from pipeline.report.style import STYLE
from pipeline.runs.metrics_file import shows_top_5

# Even if markup from elsewhere came into a page, no browser would run or load anything for it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
    "base-uri 'none'"
)
_OUTCOMES = {
    "done": "Training is done.",
    "stopped": "Stopped before its end; the same command goes on.",
    "failed": "Training failed.",
}


def report_page(run: RunFacts) -> Html:
    """The whole report of a run as one HTML document."""
    charts = learning_charts(run)
    return document(
        run.name,
        element("h1", run.name),
        _state(run),
        *(element("p", f"Left out: {what}", class_="warn") for what in run.left_out),
        _tiles(run),
        element("h2", "Settings"),
        element("p", "Those that are not the defaults.", class_="soft"),
        settings_table(run.config, only_changed=True),
        element("h2", "Learning curves"),
        _why_training_looks_worse(run.config) if charts else None,
        grid(charts) or element("p", "No metrics have been written yet."),
        evaluations_table(run),
        element("h2", "How it ran") if charts else None,
        grid(machine_charts(run)),
        class_sections(run.predictions, run.classes),
        examples_sections(run),
        augmented_section(run),
        _how_it_was_started(run),
        details("All settings", settings_table(run.config, only_changed=False)),
    )


def document(title: str, *content: Content) -> Html:
    """A whole page around its content; it needs nothing from anywhere else."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", STYLE),
    )
    body = element("body", element("main", *content))
    return join(Html("<!DOCTYPE html>\n"), element("html", head, body, lang="en"), Html("\n"))


def settings_table(config: Config, only_changed: bool) -> Html:
    """Settings with value, default and meaning."""
    rows: list[tuple[Content, ...]] = []
    for setting in all_settings():
        value = value_of(config, setting.key)
        if setting.key != "run.dir" and (not only_changed or value != setting.default):
            rows.append((setting.key, written(value), written(setting.default), setting.doc))
    head = ("setting", "value", "default", "meaning")
    if only_changed:
        return table(head[:3], [row[:3] for row in rows])
    return table(head, rows)


def written(value: Any) -> str:
    """A setting as a recipe has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Time in the two units that matter: 1 h 5 min, 3 min 20 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def _state(run: RunFacts) -> Html:
    """What was trained on what, and how it ended."""
    counts = ", ".join(f"{count:,} {split}" for split, count in run.counts.items())
    what = (
        f"{run.config.model.variant} on {run.config.data.source}: {counts} images of "
        f"{len(run.classes):,} classes."
    )
    if run.outcome is None:
        how = "It was training, or was killed, when this page was made."
    else:
        how = _OUTCOMES.get(run.outcome["outcome"], run.outcome["outcome"])
    message = run.outcome.get("message") if run.outcome else None
    return join(
        element("p", what),
        element("p", how, class_="soft" if run.outcome else "warn"),
        element("pre", message) if message else None,
    )


def _tiles(run: RunFacts) -> Html:
    """The result in a few numbers."""
    tiles: list[tuple[str, str, str | None]] = []
    test, validation, train = run.last("test"), run.best_validation(), run.last("train")
    for split, row in (("test", test), ("validation", validation)):
        if row is not None:
            where = f"weights of step {row.get('weights_of_step', row['step']):,}"
            tiles.append((f"{split} accuracy", f"{row['accuracy']:.2%}", where))
    row = test or validation
    if row is not None:
        split = row["split"]
        if shows_top_5(len(run.classes)):
            tiles.append((f"{split} top-5", f"{row['top_5_accuracy']:.2%}", None))
        tiles.append((f"{split} loss", f"{row['loss']:.4f}", None))
    if train is not None:
        tiles += _training_tiles(run, train)
    terms = [
        element("div", element("dt", name), element("dd", value, _small(note)))
        for name, value, note in tiles
    ]
    return element("dl", *terms, class_="tiles")


def _training_tiles(run: RunFacts, train: Row) -> list[tuple[str, str, str | None]]:
    rates = [rate for _, rate in run.curve("train", "examples_per_second") if rate > 0]
    last = run.starts[-1] if run.starts else {}
    in_all = f"of {last['total_steps']:,}" if "total_steps" in last else None
    tiles: list[tuple[str, str, str | None]] = [
        ("steps", f"{train['step']:,}", in_all),
        ("epochs", f"{train['epoch']:,.1f}", None),
    ]
    if rates:
        tiles.append(("images/s", f"{median(rates):,.0f}", "median"))
        tiles.append(("training time", duration(run.training_s()), "without evaluations"))
    if "parameters" in last:
        tiles.append(("parameters", f"{last['parameters']:,}", None))
    return tiles


def _why_training_looks_worse(config: Config) -> Html | None:
    data = config.data
    causes = {
        "smoothed labels": data.label_smoothing > 0,
        "mixed pairs": data.mixup_alpha > 0 or data.cutmix_alpha > 0,
        "augmented images": data.augment != AugmentConfig(),
        "dropout": bool(config.model.dropout or config.model.stochastic_depth),
    }
    found = [cause for cause, there in causes.items() if there]
    if not found:
        return None
    return element(
        "p",
        f"Training is measured while it learns, with {', '.join(found)}; validation and test on "
        "the images as they are.",
        class_="soft",
    )


def _small(note: str | None) -> Html | None:
    return None if note is None else element("small", note)


def _how_it_was_started(run: RunFacts) -> Html:
    """Command, environment, starts and checkpoints."""
    parts: list[Content] = [element("h2", "Command and environment")]
    if run.starts:
        last = run.starts[-1]
        parts.append(element("pre", shlex.join(last["command"])))
        versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
        parts.append(element("p", f"{versions}. {last['system']}. {last['devices']}."))
        parts.append(_starts_table(run.starts))
    else:
        parts.append(element("p", "The run has no record of its starts."))
    kept = ", ".join(f"{step:,}" for step in run.checkpoints) or "none"
    saved = len(saved_steps(run))
    parts.append(
        element(
            "p",
            f"Run folder {run.folder}. Checkpoints kept: steps {kept}; {saved:,} rows of metrics "
            "had a checkpoint before them.",
        )
    )
    return join(*parts)


def _starts_table(starts: Sequence[Any]) -> Html:
    rows: list[tuple[Content, ...]] = []
    for start in starts:
        step = start["checkpoint_step"]
        begins = "the beginning" if step is None else f"step {step:,}"
        rows.append((start["time"], begins, start["host"], start["devices"]))
    return table(("start (UTC)", "from", "host", "devices"), rows, "Starts of the run")
