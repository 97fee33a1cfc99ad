"""The formats of an export, and which of them a path holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras

from pipeline.errors import SettingsError
from pipeline.export import keras_file, onnx_file, safetensors_folder, saved_model
from pipeline.export.description import ExportFacts
from pipeline.export.exported import Exported, Pixels, Probabilities


class Format(NamedTuple):
    """How a model is written, recognised and read back."""

    write: Callable[[keras.Model, ExportFacts, Path], None]
    recognises: Callable[[Path], bool]
    load: Callable[[Path], Exported]


# In the order in which a path is looked at: what has no signature comes last.
FORMATS = {
    "saved_model": Format(saved_model.write, saved_model.recognises, saved_model.load),
    "safetensors": Format(
        safetensors_folder.write, safetensors_folder.recognises, safetensors_folder.load
    ),
    "keras": Format(keras_file.write, keras_file.recognises, keras_file.load),
    "onnx": Format(onnx_file.write, onnx_file.recognises, onnx_file.load),
}


def load_export(path: Path) -> Exported:
    """Reads a model that `vit export` wrote, in any of its formats.

    Raises:
      SettingsError: It is none, or has what no export of this version has.
    """
    for form in FORMATS.values():
        if form.recognises(path):
            loaded = form.load(path)
            return replace(loaded, answer=partial(_answer, loaded, path))
    raise SettingsError(
        f"{path} is neither a run folder nor an export. Give the folder that `vit train` printed, "
        "or what `vit export` wrote: a SavedModel's folder, a .onnx or .keras file, or a folder "
        "with model.safetensors"
    )


def _answer(loaded: Exported, path: Path, pixels: Pixels) -> Probabilities:
    """What a loaded export says, which has the shape that its facts promise."""
    expected = (len(pixels), len(loaded.facts.classes))
    try:
        probabilities = loaded.answer(pixels)
    except Exception as error:  # TensorFlow, Keras and onnxruntime raise their own
        raise SettingsError(
            f"{path} cannot be used: {error!s:.300}. Export the run again"
        ) from None
    if probabilities.shape != expected or probabilities.dtype.kind != "f":
        raise SettingsError(
            f"{path} answers with the shape {probabilities.shape}, and must with {expected}. "
            "Export the run again"
        )
    return probabilities
