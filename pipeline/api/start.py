"""What one start of a run is, and what a finished run has. Does not import TensorFlow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.api.results import Metrics, RunResult
from pipeline.config import Config
from pipeline.report.write import best_step
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics_file import MetricsFile

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
      config: All settings.
      folder: The run folder, whose settings were checked.
      command: What the run folder records as the command.
      say: Shows a message of the chief that is not progress.
      show_result: Shows the last row of metrics; called on the chief.
      show_progress: Whether the chief prints progress.
      catch_signals: Whether signals stop the run with a checkpoint.
    """

    config: Config
    folder: RunFolder
    command: tuple[str, ...]
    say: Callable[[str], None] = _LOG.info
    show_result: Callable[[RunFolder, Mapping[str, Any]], None] = lambda folder, row: None
    show_progress: bool = True
    catch_signals: bool = True


def finished_row(folder: RunFolder) -> dict[str, Any] | None:
    """The last row of metrics of a finished run; None if the run is not finished."""
    outcome = folder.outcome()
    if outcome is None or outcome["outcome"] != "done":
        return None
    row: dict[str, Any] = outcome.get("result", {})
    return row


def result_rows(folder: RunFolder) -> dict[str, Any]:
    """The best step, and the rows of metrics of its weights by split, for JSON."""
    rows = MetricsFile(folder.metrics, _LOG.warning).rows()
    tests = [row for row in rows if row["split"] == "test"]
    step = tests[-1].get("weights_of_step") if tests else best_step(folder)
    validations = [row for row in rows if row["split"] == "validation" and row["step"] == step]
    return {
        "step": step,
        "validation": validations[-1] if validations else None,
        "test": tests[-1] if tests else None,
    }


def as_result(folder: RunFolder, found: Mapping[str, Any]) -> RunResult:
    """The result of a run, from the value of `result_rows`."""
    validation, test = (
        None if found[split] is None else Metrics.of_row(found[split])
        for split in ("validation", "test")
    )
    return RunResult(folder.path, found["step"], validation, test)
