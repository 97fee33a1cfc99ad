"""Gathers the facts about a run, predicts its examples, and writes the report.

Importing this module does not import TensorFlow, because a second report does not need it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from pipeline.data.fingerprint import fingerprint
from pipeline.errors import PipelineError
from pipeline.report.run_facts import RunFacts
from pipeline.report.run_page import report_page
from pipeline.report.tensorboard_images import write_board
from pipeline.runs.checkpoints.store import STATE_BYTES, CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics_file import MetricsFile
from pipeline.storage.npz import read_npz
from pipeline.storage.read import open_file, read_file
from pipeline.storage.write import replace_file
from pipeline.strict_json import from_json
from pipeline.training.predictions import Examples, Predictions

if TYPE_CHECKING:
    from pipeline.training.experiment import Experiment


_LOG = logging.getLogger(__name__)

# Limits the memory of a damaged file. Predictions take 60 bytes per example and compress well.
_MOST_UNPACKED, _SMALL_BYTES = 4, 256 * 2**20
_Kind = TypeVar("_Kind", Predictions, Examples)


class ReportError(PipelineError):
    """A report could not be written."""


def gather(folder: RunFolder) -> RunFacts:
    """Reads the facts about a run from its folder.

    Predictions are left out if they are not of the current best weights, or not of the data that
    the run records now.

    Raises:
      SettingsError: The folder is not a run folder, or training has not started.
    """
    config, dataset = folder.config(), folder.dataset()
    store = CheckpointStore(folder.checkpoints)
    best = best_step(folder)
    predictions = _read(folder.predictions, Predictions)
    current = (
        predictions is not None
        and predictions.step == best
        and predictions.data == dataset.get("fingerprints", {}).get(predictions.split)
    )
    metrics = MetricsFile(folder.metrics, _LOG.warning)
    damaged = metrics.num_damaged()
    return RunFacts(
        name=folder.path.resolve().name,
        folder=str(folder.path),
        config=config,
        rows=metrics.rows(),
        classes=dataset["classes"],
        counts=dataset["examples"],
        outcome=folder.outcome(),
        starts=folder.starts(),
        workers=folder.worker_changes(),
        checkpoints=store.steps(),
        best_step=best,
        predictions=predictions if current else None,
        examples=_read(folder.examples, Examples) if current else None,
        left_out=(f"{damaged:,} damaged line(s) of {folder.metrics.name}.",) if damaged else (),
    )


def best_step(folder: RunFolder) -> int | None:
    """Returns the step of the best weights, or of the newest before the first evaluation.

    It comes from the newest state.json that is readable; the weights are not verified. None without
    a checkpoint.
    """
    store = CheckpointStore(folder.checkpoints)
    for step in reversed(store.steps()):
        try:
            state = from_json(read_file(store.path(step) / "state.json", limit_bytes=STATE_BYTES))
            best = state["progress"]["best_step"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return best if type(best) is int and 0 <= best < step else step
    return None


class PredictedExamples(NamedTuple):
    """The predictions of the best weights for a split.

    Attributes:
      predictions: One per example.
      examples: Pictures of some of them.
      is_own: Whether the examples are those that the run recorded.
    """

    predictions: Predictions
    examples: Examples
    is_own: bool


def predict_examples(experiment: Experiment, folder: RunFolder) -> PredictedExamples | None:
    """Predicts the test split, or the validation split if there is no test split.

    All processes must call it. The chief saves the predictions in the run folder, unless the
    examples are those of another data set.

    Args:
      experiment: The experiment with the best weights.
      folder: Its run folder.

    Returns:
      None on processes other than the chief, and if neither split exists.

    Raises:
      PipelineError: An image cannot be read, or a file cannot be written.
    """
    from pipeline.runtimes.agreement import on_chief
    from pipeline.training.metrics import check_counted
    from pipeline.training.prediction_pass import draw_examples, predict

    split = next((s for s in ("test", "validation") if s in experiment.source.splits), None)
    if split is None:
        return None
    data = on_chief(experiment.runtime, lambda: fingerprint(experiment.source.splits[split]))
    predictions = predict(experiment, split, data)
    count = experiment.source.splits[split].num_examples
    check_counted(split, count, len(predictions.label))
    if not experiment.runtime.is_chief:
        return None
    recorded = folder.dataset().get("fingerprints", {}).get(split)
    predicted = PredictedExamples(
        predictions, draw_examples(experiment, predictions), recorded == data
    )
    if predicted.is_own:
        # The pictures come first, because predictions without them would count as complete.
        _write(folder.examples, predicted.examples)
        _write(folder.predictions, predictions)
    return predicted


def write_report(
    folder: RunFolder,
    out: Path | None = None,
    left_out: str | None = None,
    predicted: PredictedExamples | None = None,
) -> Path:
    """Writes the report of a run and returns its file.

    Args:
      folder: The run folder.
      out: File of the report. By default it is written into the run folder, and its pictures are
        also written for TensorBoard.
      left_out: A sentence that explains why there are no examples, if there are none.
      predicted: Shown instead of the predictions in the run folder.

    Raises:
      ReportError: The report cannot be written.
    """
    facts = gather(folder)
    if predicted is not None:
        facts = replace(facts, predictions=predicted.predictions, examples=predicted.examples)
        if not predicted.is_own:
            other = "The classes and examples are of other data than the run recorded."
            facts = replace(facts, left_out=(*facts.left_out, other))
    if left_out is not None and facts.predictions is None:
        facts = replace(facts, left_out=(*facts.left_out, left_out))
    if out is None:
        try:
            write_board(folder.tensorboard, facts)
        except OSError as error:
            raise ReportError(f"cannot write in {folder.tensorboard}: {error.strerror}") from None
    return write_page(report_page(facts), out or folder.report)


def write_page(page: str, file: Path) -> Path:
    """Writes a page atomically, so that a browser never opens an incomplete one.

    Raises:
      ReportError: The page cannot be written.
    """
    _replace(file, page)
    return file


def _replace(file: Path, content: str | Callable[[BinaryIO], None]) -> None:
    try:
        replace_file(file, content)
    except OSError as error:
        raise ReportError(f"cannot write {file}: {error.strerror}") from None


def _write(file: Path, facts: Predictions | Examples) -> None:
    arrays: dict[str, Any] = {
        field.name: np.asarray(getattr(facts, field.name)) for field in fields(facts)
    }
    _replace(file, lambda stream: np.savez_compressed(stream, **arrays))


def _read(file: Path, kind: type[_Kind]) -> _Kind | None:
    """Reads what `_write` wrote; None if it is missing, damaged, or of another version."""
    try:
        with open_file(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            arrays = read_npz(stream, _MOST_UNPACKED * size + _SMALL_BYTES)
        values = {field.name: arrays[field.name] for field in fields(kind)}
    except (OSError, ValueError, KeyError):
        return None
    # Scalars and names become int, float and str again.
    plain = {k: v.tolist() for k, v in values.items() if v.ndim == 0 or v.dtype.kind == "U"}
    return kind(**values | plain)
