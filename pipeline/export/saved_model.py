"""The SavedModel format, for TensorFlow and TensorFlow Serving: image bytes in, probabilities out.

Loading it needs only TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.data.decode.header import Headers, read_headers
from pipeline.data.decode.upright import stored_boxes, stored_sizes, turn_upright
from pipeline.data.images import eval_boxes
from pipeline.data.preprocess import decode_box, normalize
from pipeline.errors import SettingsError
from pipeline.export.exported import Exported, Pixels, Probabilities
from pipeline.export.metadata import (
    FILE,
    MAX_METADATA_BYTES,
    ExportMetadata,
    from_json,
    missing_metadata,
)
from pipeline.export.saved_model_checks import checked_copy
from pipeline.storage.folders import make_folder
from pipeline.storage.read import read_file
from pipeline.storage.write import replace_file

# Folder for user files in a SavedModel, not part of the graph
# (tensorflow/core/protobuf/saved_model.proto; README of tensorflow/python/saved_model).
_EXTRA = "assets.extra"

_REFUSED = (
    "Each image must be a PNG or a JPEG with 8 bits and one or three components. Convert others, "
    "such as CMYK JPEG, GIF, BMP, WebP and TIFF, first. Received other data at these positions in "
    "the batch: "
)


class Classifier(tf.Module):
    """A model with its preprocessing.

    Args:
      model: Maps normalized images, float32 [B, S, S, 3], to logits [B, C].
      metadata: Classes, and how images are cropped, resized and normalized.
    """

    def __init__(self, model: keras.Model, metadata: ExportMetadata) -> None:
        super().__init__()
        # Only the variables are saved, not the Keras model.
        self.weights = [v.value for v in model.variables]
        self._logits = partial(model, training=False)
        self._config = metadata.preprocessing.data_config()
        self.classes = tf.constant(list(metadata.classes))
        self._mean, self._std = metadata.preprocessing.mean, metadata.preprocessing.std

    @property
    def entries(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """The signatures: serving_default takes files, pixels takes decoded images."""
        size = self._config.image_size
        content = tf.TensorSpec([None], tf.string, "images")
        pixels = tf.TensorSpec([None, size, size, 3], tf.uint8, "pixels")
        # No Python branch depends on a tensor. AutoGraph would take most of the time.
        return {
            name: tf.function(function, [spec], autograph=False).get_concrete_function()
            for name, function, spec in (
                ("serving_default", self.from_bytes, content),
                ("pixels", self.from_pixels, pixels),
            )
        }

    def from_bytes(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps JPEG or PNG files, string [B], to probabilities [B, C] and class names [C]."""
        return self.from_pixels(self.decode(images))

    def decode(self, images: tf.Tensor) -> tf.Tensor:
        """Decodes, rotates, crops and resizes JPEG or PNG files, string [B], to uint8 [B, S, S, 3].

        Raises:
          tf.errors.InvalidArgumentError: An image is damaged, or only Pillow can decode it.
        """
        config = self._config
        headers = Headers(*read_headers(images))
        # Without this check TensorFlow would also decode GIF and BMP, whose size read_headers does
        # not know.
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
                stored_sizes(headers.sizes, headers.orientations)[:, 1],
            ),
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
        )
        return turn_upright(pixels, headers.orientations)

    def from_pixels(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Maps pixels, uint8 [B, S, S, 3], to probabilities [B, C] and class names [C]."""
        logits = self._logits(normalize(pixels, self._mean, self._std))
        return {"probabilities": tf.nn.softmax(logits), "classes": self.classes}


def write(model: keras.Model, metadata: ExportMetadata, path: Path) -> None:
    """Writes the folder."""
    classifier = Classifier(model, metadata)
    tf.saved_model.save(classifier, str(path), signatures=classifier.entries)
    make_folder(path / _EXTRA)
    replace_file(path / _EXTRA / FILE, metadata.to_json())


def recognizes(path: Path) -> bool:
    """Whether a path is a SavedModel."""
    return (path / "saved_model.pb").is_file()


def load(path: Path) -> Exported:
    """Loads a folder that `write` wrote.

    Raises:
      SettingsError: The metadata is missing, the graph is damaged, or it has operations that our
        exports do not have.
    """
    file = path / _EXTRA / FILE
    if not file.is_file():
        raise missing_metadata(str(path))
    metadata = from_json(read_file(file, limit_bytes=MAX_METADATA_BYTES), str(file))
    with checked_copy(path) as folder:
        try:
            signatures = tf.saved_model.load(folder).signatures
        except Exception as error:  # the loader may raise any exception
            raise SettingsError(
                f"{path} is damaged: {error!s:.300}. Export the run again"
            ) from None
    if not {"pixels", "serving_default"} <= signatures.keys():
        raise SettingsError(f"{path} lacks the signatures of an export. Export the run again")

    def predict(pixels: Pixels) -> Probabilities:
        outputs = signatures["pixels"](pixels=tf.constant(pixels))
        return np.asarray(outputs["probabilities"].numpy())

    def predict_bytes(contents: Sequence[bytes]) -> Probabilities:
        outputs = signatures["serving_default"](images=tf.constant(list(contents)))
        return np.asarray(outputs["probabilities"].numpy())

    return Exported(metadata, predict, predict_bytes)
