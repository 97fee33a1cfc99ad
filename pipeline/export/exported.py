"""A model that was read back, whatever it was written as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from pipeline.errors import PipelineError, SettingsError
from pipeline.export.description import ExportFacts

Pixels = npt.NDArray[np.uint8]  # [B, S, S, 3], cut out and resized
Probabilities = npt.NDArray[np.floating]  # [B, C]


class ExportError(PipelineError):
    """A model cannot be written in a format, or does not answer as the run does."""


def foreign_error(where: str, what: str) -> SettingsError:
    """The error for an export that has what those of this version do not have."""
    return SettingsError(
        f"{where} has {what}, which no export of this version has: it may be a program from "
        "elsewhere, and is not run. Export the run again with this version. If you trust who made "
        "it, load it in Python yourself"
    )


@dataclass(frozen=True)
class Exported:
    """A model that answers.

    Attributes:
      facts: What it says of itself.
      answer: From pixels to probabilities; normalisation and softmax are inside.
      answer_bytes: From JPEGs and PNGs; None where the format has no decoder.
    """

    facts: ExportFacts
    answer: Callable[[Pixels], Probabilities]
    answer_bytes: Callable[[Sequence[bytes]], Probabilities] | None = None


def of_model(model: keras.Model, facts: ExportFacts) -> Exported:
    """A run's own model in the form of an export.

    Args:
      model: float32 [B, S, S, 3], normalised, to logits [B, C].
      facts: Mean and deviation among them.
    """
    mean = np.array(facts.preprocessing.mean, np.float32)
    std = np.array(facts.preprocessing.std, np.float32)

    def answer(pixels: Pixels) -> Probabilities:
        logits = model((pixels.astype(np.float32) / 255 - mean) / std, training=False)
        # In float64 different logits have different probabilities, as far as they can.
        return softmax(np.asarray(keras.ops.convert_to_numpy(logits), np.float64), axis=1)

    return Exported(facts, answer)
