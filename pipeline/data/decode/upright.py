"""Handles EXIF orientations in batches: crop boxes in stored images, and upright results."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipeline.data.decode.orientation import MIRRORED, TRANSPOSED, UPSIDE_DOWN

_BOXES, _SIZES, _ORIENTATIONS = (tf.TensorSpec(s, tf.int32) for s in ([None, 4], [None, 2], [None]))


# These are graphs because for a single image, eager operations would take longer than resizing.
@tf.function(input_signature=[_BOXES, _SIZES, _ORIENTATIONS], autograph=False)
def stored_boxes(boxes: tf.Tensor, sizes: tf.Tensor, orientations: tf.Tensor) -> tf.Tensor:
    """Converts crop boxes in upright images to boxes in stored images.

    Args:
      boxes: int32 [b, 4]: top, left, height, width.
      sizes: int32 [b, 2], sizes of the upright images.
      orientations: int32 [b].

    Returns:
      int32 [b, 4].
    """
    top, left, height, width = tf.unstack(boxes, axis=1)
    left = tf.where(_is_in(orientations, MIRRORED), sizes[:, 1] - left - width, left)
    top = tf.where(_is_in(orientations, UPSIDE_DOWN), sizes[:, 0] - top - height, top)
    as_shown = tf.stack([top, left, height, width], axis=1)
    transposed = tf.stack([left, top, width, height], axis=1)
    return tf.where(_is_in(orientations, TRANSPOSED)[:, tf.newaxis], transposed, as_shown)


@tf.function(input_signature=[_SIZES, _ORIENTATIONS], autograph=False)
def stored_sizes(sizes: tf.Tensor, orientations: tf.Tensor) -> tf.Tensor:
    """Returns sizes int32 [b, 2] of stored images from those of upright ones."""
    return tf.where(_is_in(orientations, TRANSPOSED)[:, tf.newaxis], sizes[:, ::-1], sizes)


def turn_upright(images: tf.Tensor, orientations: tf.Tensor) -> tf.Tensor:
    """Turns square images uint8 [b, S, S, 3] upright, given their orientations int32 [b]."""
    turned = tf.where(orientations != 1)  # [n, 1]

    def turn() -> tf.Tensor:
        part, kinds = tf.gather_nd(images, turned), tf.gather_nd(orientations, turned)
        for values, change in (
            (TRANSPOSED, _transpose),
            (MIRRORED, lambda x: x[:, :, ::-1]),
            (UPSIDE_DOWN, lambda x: x[:, ::-1]),
        ):
            chosen = _is_in(kinds, values)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            part = tf.where(chosen, change(part), part)
        return tf.tensor_scatter_nd_update(images, turned, part)

    return tf.cond(tf.size(turned) > 0, turn, lambda: images)


def _transpose(images: tf.Tensor) -> tf.Tensor:
    # oneDNN does not support tf.transpose for uint8, and logs an error for each attempt.
    size = images.shape[1]
    places = np.arange(size * size).reshape(size, size).T.ravel()
    pixels = tf.gather(tf.reshape(images, [-1, size * size, 3]), places, axis=1)  # [n, S*S, 3]
    return tf.reshape(pixels, [-1, size, size, 3])


def _is_in(orientations: tf.Tensor, values: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(orientations[:, tf.newaxis] == tf.constant(values), axis=1)
