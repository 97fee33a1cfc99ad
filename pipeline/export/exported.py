"""A loaded model, independent of the format of its export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from pipeline.errors import PipelineError, SettingsError
from pipeline.export.metadata import ExportMetadata
from pipeline.model.architecture import Architecture

Pixels = npt.NDArray[np.uint8]  # [B, S, S, 3], cropped and resized
Probabilities = npt.NDArray[np.floating]  # [B, C]


class ExportError(PipelineError):
    """A model cannot be converted to a format, or its export gives other results than the run."""


def untrusted_error(where: str, what: str) -> SettingsError:
    """The error for an export with contents that exports of this version do not have."""
    return SettingsError(
        f"{where} contains {what}, which exports of this version never contain. It is not loaded, "
        "because it could run other code. Export the run again with this version. If you trust the "
        "author of the file, load it in Python yourself"
    )


def known_architecture(metadata: ExportMetadata, form: str) -> Architecture:
    """The architecture, for a format that stores the network layer by layer.

    Raises:
      ExportError: The model is one of `model.builder`.
    """
    if metadata.architecture is None:
        raise ExportError(
            f"--format {form} is for the Vision Transformers of this package, and this run has a "
            "model of model.builder"
        )
    return metadata.architecture


@dataclass(frozen=True)
class Exported:
    """A model with its metadata.

    Attributes:
      metadata: The metadata.
      predict: Maps pixels to probabilities, including normalization and softmax.
      predict_bytes: Maps JPEG and PNG files to probabilities; None if the format has no decoder.
    """

    metadata: ExportMetadata
    predict: Callable[[Pixels], Probabilities]
    predict_bytes: Callable[[Sequence[bytes]], Probabilities] | None = None


def wrap_model(model: keras.Model, metadata: ExportMetadata) -> Exported:
    """Wraps the model of a run like a loaded export.

    Args:
      model: Maps normalized images, float32 [B, S, S, 3], to logits [B, C].
      metadata: The metadata, including mean and standard deviation.
    """
    mean = np.array(metadata.preprocessing.mean, np.float32)
    std = np.array(metadata.preprocessing.std, np.float32)

    def predict(pixels: Pixels) -> Probabilities:
        logits = model((pixels.astype(np.float32) / 255 - mean) / std, training=False)
        # float64 keeps the probabilities of different logits different, as far as possible.
        return softmax(np.asarray(keras.ops.convert_to_numpy(logits), np.float64), axis=1)

    return Exported(metadata, predict)
