"""From a run folder to its report: what the files say, and what its best weights say of the data.

Importing this module does not import TensorFlow: a second report needs none.
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

# Predictions take 60 bytes for each example, and may be packed well.
_MOST_UNPACKED, _SMALL_BYTES = 4, 256 * 2**20
_Kind = TypeVar("_Kind", Predictions, Examples)


class ReportError(PipelineError):
    """A report could not be written."""


def gather(folder: RunFolder) -> RunFacts:
    """What the files of a run say.

    Predictions of other weights than those that are now the best, or of other data than the run now
    records, are left out.

    Raises:
      SettingsError: It is no run folder, or its training never began.
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
        checkpoints=store.steps(),
        best_step=best,
        predictions=predictions if current else None,
        examples=_read(folder.examples, Examples) if current else None,
        left_out=(f"{damaged:,} damaged line(s) of {folder.metrics.name}.",) if damaged else (),
    )


def best_step(folder: RunFolder) -> int | None:
    """The step of the weights that were best on validation, or of the newest before there are such.

    As the newest state.json says that can be read; what is beside it is not verified. None where
    there is no checkpoint.
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


class Looked(NamedTuple):
    """What a run's best weights say of examples.

    Attributes:
      predictions: Of all.
      examples: Pictures of some.
      is_own: Whether they are of the data set that the run recorded.
    """

    predictions: Predictions
    examples: Examples
    is_own: bool


def look_at_examples(experiment: Experiment, folder: RunFolder) -> Looked | None:
    """What the best weights say of the test or validation examples; all processes must call it.

    The chief keeps it in the run folder, unless the examples are those of another data set.

    Args:
      experiment: With the best weights.
      folder: Of its run.

    Returns:
      None on other processes than the chief, and where there is neither split.

    Raises:
      PipelineError: An image cannot be read, or the files cannot be written.
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
    looked = Looked(predictions, draw_examples(experiment, predictions), recorded == data)
    if looked.is_own:
        # The pictures first: predictions without them would count as the whole.
        _write(folder.examples, looked.examples)
        _write(folder.predictions, predictions)
    return looked


def write_report(
    folder: RunFolder,
    out: Path | None = None,
    left_out: str | None = None,
    looked: Looked | None = None,
) -> Path:
    """Makes the page of one run and returns its file.

    Args:
      folder: Of the run.
      out: Where to; None: into the run folder, and its pictures and text to TensorBoard too.
      left_out: Why there are no examples, where there are none; a sentence.
      looked: What to show in place of the predictions that the run folder has.

    Raises:
      ReportError: It cannot be written.
    """
    facts = gather(folder)
    if looked is not None:
        facts = replace(facts, predictions=looked.predictions, examples=looked.examples)
        if not looked.is_own:
            other = "Classes and examples are of other data than the run recorded."
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
    """Writes a page in one piece, so that a browser never opens half of one.

    Raises:
      ReportError: It cannot be written.
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
    """What `_write` wrote; None where it is not there, or not whole, or of another version."""
    try:
        with open_file(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            arrays = read_npz(stream, _MOST_UNPACKED * size + _SMALL_BYTES)
        values = {field.name: arrays[field.name] for field in fields(kind)}
    except (OSError, ValueError, KeyError):
        return None
    # Scalars and names as they were: NumPy's are no int and no str.
    plain = {k: v.tolist() for k, v in values.items() if v.ndim == 0 or v.dtype.kind == "U"}
    return kind(**values | plain)
