"""An export comes into being as a whole, and only when it says what the run says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import PipelineError, SettingsError
from pipeline.export.description import ExportFacts
from pipeline.export.exported import Exported, ExportError, Pixels, Probabilities
from pipeline.export.formats import FORMATS
from pipeline.export.keras_file import SUFFIX
from pipeline.export.packages import is_available
from pipeline.storage.folders import make_folder, written_beside

# Probabilities of the exported and of the run's own model may differ so much: by rounding.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Compared:
    """Images and what the run says of them.

    Attributes:
      contents: n JPEGs or PNGs.
      pixels: uint8 [n, S, S, 3], the same, cut out and resized.
      expected: The run's probabilities, float32 [n, C].
    """

    contents: Sequence[bytes]
    pixels: Pixels
    expected: Probabilities


def export(
    name: str, model: keras.Model, facts: ExportFacts, out: Path, compared: Compared
) -> float:
    """Writes a model beside `out`, loads it again, compares, and only then renames it.

    Args:
      name: Of `FORMATS`.
      model: float32 [B, S, S, 3], normalised, to logits [B, C].
      facts: Classes, preprocessing, architecture.
      out: A path that is not there yet.
      compared: What it must answer.

    Returns:
      The largest difference of a probability.

    Raises:
      SettingsError: `out` is there already, or cannot be written; nothing is left.
      ExportError: The two differ by more than `TOLERANCE`, or the model cannot be converted;
        nothing is left.
    """
    check_out(name, out)
    try:
        make_folder(out.parent, parents=True)
        with written_beside(out) as new:
            difference = _write_and_compare(name, model, facts, new, compared)
            check_out(name, out)  # a file that came meanwhile would be replaced without a word
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow's text begins with the operation and the file.
        reason = getattr(error, "strerror", None) or str(error).rsplit("; ", 1)[-1]
        raise SettingsError(f"cannot write {out}: {reason}") from None
    return difference


def find_working_format(
    failed: str, model: keras.Model, facts: ExportFacts, compared: Compared
) -> str | None:
    """The first other format that answers as the run does, tried in a temporary folder."""
    for name in FORMATS:
        if name == failed or not is_available(name):
            continue
        with TemporaryDirectory() as folder, suppress(PipelineError, OSError, tf.errors.OpError):
            _write_and_compare(name, model, facts, Path(folder) / f"export{SUFFIX}", compared)
            return name
    return None


def _write_and_compare(
    name: str, model: keras.Model, facts: ExportFacts, path: Path, compared: Compared
) -> float:
    FORMATS[name].write(model, facts, path)
    difference = largest_difference(FORMATS[name].load(path), compared)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the exported model's probabilities differ from the run's by {difference:.1e}: "
            "it was not kept"
        )
    return difference


def check_out(name: str, out: Path) -> None:
    """SettingsError where something would be overwritten, or Keras would not read it."""
    if os.path.lexists(out):
        raise SettingsError(f"{out} is there already: remove it, or give another --out")
    if name == "keras" and out.suffix != SUFFIX:
        raise SettingsError(f"Keras reads files that end in {SUFFIX} only. Received: --out {out}")


def largest_difference(exported: Exported, compared: Compared) -> float:
    """Of a probability, loaded and the run's, from pixels and from bytes; NaN where one is."""
    answers = [exported.answer(compared.pixels)]
    if exported.answer_bytes is not None:
        answers.append(exported.answer_bytes(compared.contents))
    return float(np.max([np.abs(answer - compared.expected).max() for answer in answers]))
