"""Models of runs and their predictions: `pipeline.load_model` and `pipeline.predict`.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.api.results import Prediction
from pipeline.api.settings import as_overrides
from pipeline.errors import SettingsError
from pipeline.export.packages import require
from pipeline.runs.folder import RunFolder
from pipeline.runs.saved_settings import read_settings
from pipeline.runtimes.tensorflow_start import import_tensorflow

if TYPE_CHECKING:
    import keras

    from pipeline.export.exported import Exported
    from pipeline.export.file_predictions import FilePrediction

_LOG = logging.getLogger(__name__)
# Settings that may name code. The data of the run is not needed.
_NEEDS = ("model.builder",)


def load_model(
    run: str | PathLike[str],
    weights: Literal["evaluated", "averaged", "plain"] = "evaluated",
    *,
    trust_code: bool = False,
) -> keras.Model:
    """The model of a run, with the weights that were best on validation.

    The model maps images, float32 [B, S, S, 3], to logits, float32 [B, classes]. The images must be
    normalized as in training: (pixels / 255 - mean) / std, with mean and std from the run's
    dataset.json. `predict` and exported models do that themselves.

    Args:
      run: The run folder.
      weights: evaluated: the weights that the run evaluated. averaged: their moving average.
        plain: the weights without averaging.
      trust_code: Whether to import the code that the run names as `model.builder`.

    Raises:
      SettingsError: It is not a run folder, or the run has no such weights.
    """
    folder = RunFolder(Path(run))
    config = read_settings(folder, trust_code=trust_code, needs=_NEEDS)
    import_tensorflow()
    from pipeline.training import best_weights

    model, _ = best_weights.load_model(folder, config, weights)
    return model


def predict(
    model: str | PathLike[str],
    images: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    top: int = 5,
    settings: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> list[Prediction]:
    """The most likely classes of images.

    Args:
      model: A run folder, whose best weights are used, or a model that `vit export` wrote.
      images: Files, folders, which stand for all images in them, and patterns such as
        "photos/**/*.jpg".
      top: Number of classes per image.
      settings: Settings that are not taken from a run, as with `vit predict --set`.
      trust_code: Whether to import the code that the run names as `model.builder`.

    Returns:
      A prediction for each image, in this order. An image that cannot be read has a `problem`.

    Raises:
      SettingsError: It is neither a run folder nor an export, the run has no checkpoint, or `top`
        is less than 1.
    """
    check_top(top, "top")
    words = [images] if isinstance(images, (str, PathLike)) else images
    loaded = load_predictor(Path(model), as_overrides(settings), trust_code=trust_code)
    from pipeline.export.file_predictions import find_images, predict_files

    files = find_images(fspath(word) for word in words)
    return [as_prediction(loaded, answer, top) for answer in predict_files(loaded, files)]


def check_top(top: int, name: str) -> None:
    """Raises SettingsError if a number of classes is less than 1; `name` is what the user gave."""
    if top < 1:
        raise SettingsError(f"{name} must be at least 1. Received: {top}")


def load_predictor(
    path: Path,
    given: Sequence[str] = (),
    say: Callable[[str], None] = _LOG.info,
    *,
    trust_code: bool = False,
) -> Exported:
    """The best weights of a run, or an export, as a function from pixels to probabilities.

    Args:
      path: The run folder or the export.
      given: Settings that are not taken from a run, as `section.key=value`.
      say: Shows a message.
      trust_code: Whether to import the code that the run names as `model.builder`.

    Raises:
      SettingsError: It is neither, or the run has no checkpoint yet.
    """
    if path.suffix == ".onnx":
        require("onnx", "onnxruntime")
    folder = RunFolder(path)
    config = (
        read_settings(folder, given, trust_code=trust_code, needs=_NEEDS) if folder.is_run else None
    )
    import_tensorflow()
    from pipeline.export.exported import wrap_model
    from pipeline.export.formats import load_export
    from pipeline.export.metadata import ExportMetadata
    from pipeline.training import best_weights

    if config is None:
        return load_export(path)
    precision = config.train.precision
    model, step = best_weights.load_model(folder, config, precision=precision)
    if precision != "float32":
        say(f"computes in {precision}, as the run did")
    facts = ExportMetadata.of_run(config, folder.dataset(), model.arch, step)
    return wrap_model(model, facts)


def as_prediction(model: Exported, answer: FilePrediction, top: int) -> Prediction:
    """An answer with the names of the `top` most likely classes."""
    from pipeline.export.file_predictions import top_classes

    probabilities = answer.probabilities
    if probabilities is None:
        return Prediction(answer.path, (), answer.problem or "")
    classes = model.metadata.classes
    chosen = top_classes(probabilities, top)
    return Prediction(answer.path, tuple((classes[i], float(probabilities[i])) for i in chosen))
