"""A SavedModel, for TensorFlow alone and TensorFlow Serving: image bytes in, probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.data.decode.header import Headers, read_headers
from pipeline.data.decode.upright import stored_boxes, stored_widths, turn_upright
from pipeline.data.images import eval_boxes
from pipeline.data.preprocess import decode_box, normalize
from pipeline.errors import SettingsError
from pipeline.export.description import FACTS_BYTES, FILE, ExportFacts, from_json, no_facts
from pipeline.export.exported import Exported, Pixels, Probabilities
from pipeline.export.foreign_graph import checked_copy
from pipeline.storage.folders import make_folder
from pipeline.storage.read import read_file
from pipeline.storage.write import replace_file

# Where a SavedModel keeps what is its user's, and no part of its graph
# (tensorflow/core/protobuf/saved_model.proto's folder; README of tensorflow/python/saved_model).
_EXTRA = "assets.extra"

_REFUSED = (
    "Each image must be a PNG or a JPEG of 8 bits with one or three components. Convert others, "
    "such as CMYK JPEG, GIF, BMP, WebP and TIFF, first. Received other data at these places in the "
    "batch: "
)


class Classifier(tf.Module):
    """A model with its preprocessing.

    Args:
      model: float32 [B, S, S, 3], normalised, to logits [B, C].
      facts: Classes, and how images are cut out, resized and normalised.
    """

    def __init__(self, model: keras.Model, facts: ExportFacts) -> None:
        super().__init__()
        # The variables are what is to be saved, and not the Keras model around them.
        self.weights = [v.value for v in model.variables]
        self._logits = partial(model, training=False)
        self._config = facts.preprocessing.data_config()
        self.classes = tf.constant(list(facts.classes))
        self._mean, self._std = facts.preprocessing.mean, facts.preprocessing.std

    @property
    def entries(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """The signatures: serving_default takes image bytes, pixels takes pixels."""
        size = self._config.image_size
        content = tf.TensorSpec([None], tf.string, "images")
        pixels = tf.TensorSpec([None, size, size, 3], tf.uint8, "pixels")
        return {
            "serving_default": tf.function(self.from_bytes, [content]).get_concrete_function(),
            "pixels": tf.function(self.from_pixels, [pixels]).get_concrete_function(),
        }

    def from_bytes(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """JPEG or PNG, string [B], to probabilities float32 [B, C] and classes string [C]."""
        return self.from_pixels(self.decode(images))

    def decode(self, images: tf.Tensor) -> tf.Tensor:
        """JPEG or PNG, string [B], upright, cut out and resized: uint8 [B, S, S, 3].

        Raises:
          tf.errors.InvalidArgumentError: An image is damaged, or only Pillow reads it.
        """
        config = self._config
        headers = Headers(*read_headers(images))
        # Without this check, TensorFlow would decode a GIF or a BMP as well, but read_headers does
        # not know its size.
        refused = tf.reshape(tf.where(~headers.by_tensorflow), [-1])
        check = tf.debugging.Assert(tf.size(refused) == 0, [_REFUSED, refused])
        with tf.control_dependencies([check]):
            images = tf.identity(images)
        shown = eval_boxes(config)(headers.sizes, tf.range(tf.size(images)))
        size = config.image_size
        pixels = tf.map_fn(
            lambda one: decode_box(one[0], one[1], one[2], size, config.resize, config.antialias),
            (
                images,
                stored_boxes(shown, headers.sizes, headers.orientations),
                stored_widths(headers.sizes, headers.orientations),
            ),
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
        )
        return turn_upright(pixels, headers.orientations)

    def from_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """uint8 [B, S, S, 3], cut out and resized, to the same."""
        logits = self._logits(normalize(pixels, self._mean, self._std))
        return {"probabilities": tf.nn.softmax(logits), "classes": self.classes}


def write(model: keras.Model, facts: ExportFacts, path: Path) -> None:
    """Writes the folder."""
    classifier = Classifier(model, facts)
    tf.saved_model.save(classifier, str(path), signatures=classifier.entries)
    make_folder(path / _EXTRA)
    replace_file(path / _EXTRA / FILE, facts.to_json())


def recognises(path: Path) -> bool:
    """Whether a path is a SavedModel."""
    return (path / "saved_model.pb").is_file()


def load(path: Path) -> Exported:
    """Reads what `write` wrote.

    Raises:
      SettingsError: It says nothing of its classes and preprocessing, is damaged, or has operations
        that no export has.
    """
    file = path / _EXTRA / FILE
    if not file.is_file():
        raise no_facts(str(path))
    facts = from_json(read_file(file, limit_bytes=FACTS_BYTES), str(file))
    with checked_copy(path) as folder:
        try:
            signatures = tf.saved_model.load(folder).signatures
        except Exception as error:  # the loader raises whatever goes wrong in it
            raise SettingsError(
                f"{path} is damaged: {error!s:.300}. Export the run again"
            ) from None
    if not {"pixels", "serving_default"} <= signatures.keys():
        raise SettingsError(f"{path} has other signatures than an export. Export the run again")

    def answer(pixels: Pixels) -> Probabilities:
        said = signatures["pixels"](pixels=tf.constant(pixels))
        return np.asarray(said["probabilities"].numpy())

    def answer_bytes(contents: Sequence[bytes]) -> Probabilities:
        said = signatures["serving_default"](images=tf.constant(list(contents)))
        return np.asarray(said["probabilities"].numpy())

    return Exported(facts, answer, answer_bytes)
