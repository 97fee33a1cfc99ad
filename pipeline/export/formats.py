"""The export formats, and the detection of the format of a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras

from pipeline.errors import SettingsError
from pipeline.export import keras_file, onnx_file, safetensors_folder, saved_model
from pipeline.export.exported import Exported, Pixels, Probabilities
from pipeline.export.metadata import ExportMetadata


class Format(NamedTuple):
    """Functions that write, recognize and load one format."""

    write: Callable[[keras.Model, ExportMetadata, Path], None]
    recognizes: Callable[[Path], bool]
    load: Callable[[Path], Exported]


# In the order of detection. Formats without a signature come last.
FORMATS = {
    "saved_model": Format(saved_model.write, saved_model.recognizes, saved_model.load),
    "safetensors": Format(
        safetensors_folder.write, safetensors_folder.recognizes, safetensors_folder.load
    ),
    "keras": Format(keras_file.write, keras_file.recognizes, keras_file.load),
    "onnx": Format(onnx_file.write, onnx_file.recognizes, onnx_file.load),
}


def load_export(path: Path) -> Exported:
    """Loads a model that `vit export` wrote in any format.

    Raises:
      SettingsError: It is not an export, or has contents that exports of this version do not have.
    """
    for form in FORMATS.values():
        if form.recognizes(path):
            loaded = form.load(path)
            return replace(loaded, predict=partial(_predict, loaded, path))
    raise SettingsError(
        f"{path} is neither a run folder nor an export. Give the folder that `vit train` printed, "
        "or an output of `vit export`: the folder of a SavedModel, a .onnx or .keras file, or a "
        "folder with model.safetensors"
    )


def _predict(loaded: Exported, path: Path, pixels: Pixels) -> Probabilities:
    """Predicts with a loaded export, and checks the shape and dtype of the result."""
    expected = (len(pixels), len(loaded.metadata.classes))
    try:
        probabilities = loaded.predict(pixels)
    except Exception as error:  # TensorFlow, Keras and onnxruntime have their own exceptions
        raise SettingsError(
            f"{path} cannot be used: {error!s:.300}. Export the run again"
        ) from None
    if probabilities.shape != expected or probabilities.dtype.kind != "f":
        raise SettingsError(
            f"{path} returns the shape {probabilities.shape}, but must return {expected}. "
            "Export the run again"
        )
    return probabilities
