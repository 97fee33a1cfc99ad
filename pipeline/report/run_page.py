"""The page of one run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipeline.config import AugmentConfig, Config, all_settings, value_of
from pipeline.report.curves import evaluations_table, learning_charts, machine_charts, saved_steps
from pipeline.report.example_images import augmented_examples, confident_examples
from pipeline.report.page import render
from pipeline.report.per_class import class_facts
from pipeline.report.run_facts import Row, RunFacts
from pipeline.report.worker_timeline import worker_timeline
from pipeline.runs.metrics_file import shows_top_5

_OUTCOMES = {
    "done": "Training is done.",
    "stopped": "Training was stopped before its end. The same command resumes it.",
    "failed": "Training failed.",
}


@dataclass(frozen=True)
class Tile:
    """A number at the top of a page: its name, its value, and a note below it."""

    name: str
    value: str
    note: str | None = None


def report_page(run: RunFacts) -> str:
    """Renders the report of a run as one HTML document."""
    last = run.starts[-1] if run.starts else None
    return render(
        "run.html",
        title=run.name,
        run=run,
        outcome=_outcome(run),
        message=run.outcome.get("message") if run.outcome else None,
        tiles=_tiles(run),
        changed_settings=_changed_settings(run.config),
        all_settings=_settings_rows(run.config),
        training_measured_with=_training_measured_with(run.config),
        learning_charts=learning_charts(run),
        machine_charts=machine_charts(run),
        evaluations=evaluations_table(run),
        classes=class_facts(run.predictions, run.classes),
        examples=confident_examples(run),
        augmented=augmented_examples(run),
        last_start=last,
        command=shlex.join(last["command"]) if last else None,
        starts=[_start_row(start) for start in run.starts],
        workers=worker_timeline(run),
        num_saved=len(saved_steps(run)),
    )


def _settings_rows(config: Config) -> list[tuple[str, str, str, str]]:
    """Key, value, default and meaning of each setting."""
    return [
        (setting.key, written(value_of(config, setting.key)), written(setting.default), setting.doc)
        for setting in all_settings()
        if setting.key != "run.dir"
    ]


def _changed_settings(config: Config) -> list[tuple[str, str, str]]:
    """Key, value and default of the settings that do not have their default value."""
    return [
        (setting.key, written(value), written(setting.default))
        for setting in all_settings()
        if setting.key != "run.dir" and (value := value_of(config, setting.key)) != setting.default
    ]


def written(value: Any) -> str:
    """Formats the value of a setting as a recipe file has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Formats a time in two units: 1 h 5 min, 3 min 20 s, 4.2 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def _outcome(run: RunFacts) -> str:
    """How the run ended, as a sentence."""
    if run.outcome is None:
        return "When this page was written, the run was training or had been killed."
    outcome: str = run.outcome["outcome"]
    return _OUTCOMES.get(outcome, outcome)


def _tiles(run: RunFacts) -> list[Tile]:
    """The result in a few numbers."""
    tiles = []
    test, validation, train = run.last("test"), run.best_validation(), run.last("train")
    for split, row in (("test", test), ("validation", validation)):
        if row is not None:
            note = f"weights of step {row.get('weights_of_step', row['step']):,}"
            tiles.append(Tile(f"{split} accuracy", f"{row['accuracy']:.2%}", note))
    row = test or validation
    if row is not None:
        split = row["split"]
        if shows_top_5(len(run.classes)):
            tiles.append(Tile(f"{split} top-5", f"{row['top_5_accuracy']:.2%}"))
        tiles.append(Tile(f"{split} loss", f"{row['loss']:.4f}"))
    if train is not None:
        tiles += _training_tiles(run, train)
    return tiles


def _training_tiles(run: RunFacts, train: Row) -> list[Tile]:
    rates = [rate for _, rate in run.curve("train", "examples_per_second") if rate > 0]
    last = run.starts[-1] if run.starts else {}
    total = f"of {last['total_steps']:,}" if "total_steps" in last else None
    tiles = [Tile("steps", f"{train['step']:,}", total), Tile("epochs", f"{train['epoch']:,.1f}")]
    if rates:
        tiles.append(Tile("images/s", f"{median(rates):,.0f}", "median"))
        tiles.append(Tile("training time", duration(run.training_s()), "without evaluations"))
    if "parameters" in last:
        tiles.append(Tile("parameters", f"{last['parameters']:,}"))
    return tiles


def _training_measured_with(config: Config) -> list[str]:
    """Why metrics of training look worse than those of validation."""
    data = config.data
    causes = {
        "smoothed labels": data.label_smoothing > 0,
        "mixed pairs": data.mixup_alpha > 0 or data.cutmix_alpha > 0,
        "augmented images": data.augment != AugmentConfig(),
        "dropout": bool(config.model.dropout or config.model.stochastic_depth),
    }
    return [cause for cause, is_used in causes.items() if is_used]


def _start_row(start: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Time, checkpoint, host and devices of a start."""
    step = start["checkpoint_step"]
    begins = "the beginning" if step is None else f"step {step:,}"
    return start["time"], begins, start["host"], start["devices"]
