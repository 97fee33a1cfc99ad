"""Writes an export atomically, and keeps it only if its predictions equal those of the run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import PipelineError, SettingsError
from pipeline.export.exported import Exported, ExportError, Pixels, Probabilities
from pipeline.export.formats import FORMATS
from pipeline.export.keras_file import SUFFIX
from pipeline.export.metadata import ExportMetadata
from pipeline.export.packages import is_available
from pipeline.storage.folders import make_folder, written_beside

# Largest difference of a probability between the export and the run, due to rounding.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Reference:
    """Images and the predictions of the run for them.

    Attributes:
      contents: n JPEG or PNG files.
      pixels: uint8 [n, S, S, 3], the same images, cropped and resized.
      expected: Probabilities of the run, float32 [n, C].
    """

    contents: Sequence[bytes]
    pixels: Pixels
    expected: Probabilities


def export(
    name: str, model: keras.Model, metadata: ExportMetadata, out: Path, reference: Reference
) -> float:
    """Writes a model to a temporary path, verifies it, and renames it to `out`.

    Args:
      name: Key of `FORMATS`.
      model: Maps normalized images, float32 [B, S, S, 3], to logits [B, C].
      metadata: Metadata of the export.
      out: A path that does not exist.
      reference: Images and expected predictions.

    Returns:
      The largest difference of a probability.

    Raises:
      SettingsError: `out` exists or cannot be written. Nothing is left behind.
      ExportError: The predictions differ by more than `TOLERANCE`, or the model cannot be
        converted. Nothing is left behind.
    """
    check_out(name, out)
    try:
        make_folder(out.parent, parents=True)
        with written_beside(out) as new:
            difference = _write_and_compare(name, model, metadata, new, reference)
            check_out(name, out)  # a file created in the meantime must not be replaced
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow's message begins with the operation and the file.
        reason = getattr(error, "strerror", None) or str(error).rsplit("; ", 1)[-1]
        raise SettingsError(f"cannot write {out}: {reason}") from None
    return difference


def find_working_format(
    failed: str, model: keras.Model, metadata: ExportMetadata, reference: Reference
) -> str | None:
    """Finds another format that works for this model, using a temporary folder."""
    for name in FORMATS:
        if name == failed or not is_available(name):
            continue
        with TemporaryDirectory() as folder, suppress(PipelineError, OSError, tf.errors.OpError):
            _write_and_compare(name, model, metadata, Path(folder) / f"export{SUFFIX}", reference)
            return name
    return None


def _write_and_compare(
    name: str, model: keras.Model, metadata: ExportMetadata, path: Path, reference: Reference
) -> float:
    FORMATS[name].write(model, metadata, path)
    try:
        exported = FORMATS[name].load(path)
    except SettingsError as error:
        if metadata.architecture is not None:
            raise
        found = re.search(r" contains (.+), which exports", str(error))
        raise ExportError(
            f"--format {name} cannot have this model of model.builder: "
            f"{found[1] + ' is not among those of exports' if found else error}"
        ) from None
    difference = largest_difference(exported, reference)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the probabilities of the exported model differ from those of the run by "
            f"{difference:.1e}, so it was not kept"
        )
    return difference


def check_out(name: str, out: Path) -> None:
    """Raises SettingsError if `out` exists, or does not have the suffix that Keras requires."""
    if os.path.lexists(out):
        raise SettingsError(f"{out} exists already. Remove it, or give another --out")
    if name == "keras" and out.suffix != SUFFIX:
        raise SettingsError(f"Keras requires a file name ending in {SUFFIX}. Received: --out {out}")


def largest_difference(exported: Exported, reference: Reference) -> float:
    """The largest difference of a probability, from pixels and from files; NaN if one is NaN."""
    answers = [exported.predict(reference.pixels)]
    if exported.predict_bytes is not None:
        answers.append(exported.predict_bytes(reference.contents))
    return float(np.max([np.abs(answer - reference.expected).max() for answer in answers]))
