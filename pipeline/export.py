"""A trained model as one that needs none of this package: image bytes in, probabilities out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.data.images import eval_boxes
from pipeline.data.preprocess import decode_box, image_size, normalize
from pipeline.errors import PipelineError, SettingsError

# Probabilities of the exported and of the run's own model may differ so much: by rounding.
TOLERANCE = 1e-5


class ExportError(PipelineError):
    """The exported model does not say what the run's says."""


class Classifier(tf.Module):
    """A model with its preprocessing.

    Args:
      model: float32 [B, S, S, 3], normalised, to logits [B, C].
      classes: C names.
      config: How images are cut out and resized.
      mean: Of the training pixels, a channel, in units of 0..1.
      std: Likewise.
    """

    def __init__(
        self,
        model: keras.Model,
        classes: Sequence[str],
        config: DataConfig,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        # The variables are what is to be saved, and not the Keras model around them.
        self.weights = [v.value for v in model.variables]
        self._logits = partial(model, training=False)
        self._config = config
        self.classes = tf.constant(list(classes))
        self._mean, self._std = mean, std
        size = config.image_size
        pixels = tf.TensorSpec([None, size, size, 3], tf.uint8, "pixels")
        self.entries = {
            "serving_default": tf.function(
                self.from_bytes, [tf.TensorSpec([None], tf.string, "images")]
            ).get_concrete_function(),
            "pixels": tf.function(self.from_pixels, [pixels]).get_concrete_function(),
        }

    def from_bytes(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """JPEG or PNG, string [B], to probabilities float32 [B, C] and classes string [C]."""
        boxes, config = eval_boxes(self._config), self._config

        def decode(content: tf.Tensor) -> tf.Tensor:
            box = boxes(image_size(content)[tf.newaxis], tf.constant([0]))[0]
            return decode_box(content, box, config.image_size, config.resize, config.antialias)

        size = config.image_size
        pixels = tf.map_fn(
            decode, images, fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8)
        )
        return self.from_pixels(pixels)

    def from_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 [B, S, S, 3], cut out and resized, to the same."""
        logits = self._logits(normalize(pixels, self._mean, self._std))
        return {"probabilities": tf.nn.softmax(logits), "classes": self.classes}


def export(
    classifier: Classifier, out: Path, contents: Sequence[bytes], expected: npt.NDArray[np.float32]
) -> float:
    """Writes a SavedModel, loads it again, and compares.

    Args:
      classifier: What to write.
      out: A folder that is not there yet.
      contents: n real images, JPEG or PNG.
      expected: The run's probabilities for them, float32 [n, C].

    Returns:
      The largest difference of a probability.

    Raises:
      SettingsError: `out` is there already, or cannot be written.
      ExportError: The two differ by more than `TOLERANCE`; nothing is left.
    """
    if out.exists():
        raise SettingsError(f"{out} is there already: remove it, or give another --out")
    try:
        tf.saved_model.save(classifier, str(out), signatures=classifier.entries)
    except (OSError, tf.errors.OpError) as error:
        raise SettingsError(f"cannot write {out}: {error}") from None
    loaded = tf.saved_model.load(str(out))
    answer = loaded.signatures["serving_default"](images=tf.constant(list(contents)))
    difference = float(np.abs(answer["probabilities"].numpy() - expected).max())
    if not difference <= TOLERANCE:
        shutil.rmtree(out)
        raise ExportError(
            f"the exported model's probabilities differ from the run's by {difference:.1e}: it "
            "was not kept"
        )
    return difference
