"""Crop boxes: the whole image, its center, or a random part.

A box is int32 (top, left, height, width) in pixels of the whole image.
"""

from __future__ import annotations

import math

import tensorflow as tf

from pipeline.data.order import uniforms

_TRIES = 10
_ASPECT = (3 / 4, 4 / 3)

# The draws in augment.py, rand_augment.py and mix.py start at 0, 100 and 1000.
_DRAWS = range(200, 200 + 2 * _TRIES + 2)  # areas, aspect ratios, top, left


def whole_box(sizes: tf.Tensor) -> tf.Tensor:
    """Returns boxes of whole images: sizes (height, width) int32 [B, 2] -> boxes int32 [B, 4]."""
    return tf.concat([tf.zeros_like(sizes), sizes], axis=1)


def center_box(sizes: tf.Tensor, fraction: float) -> tf.Tensor:
    """Returns the central square with `fraction` of the shorter side; shapes as in `whole_box`."""
    short = tf.cast(tf.reduce_min(sizes, axis=1, keepdims=True), tf.float32)  # [B, 1]
    side = tf.cast(tf.round(tf.maximum(short * fraction, 1.0)), tf.int32)
    return tf.concat([(sizes - side) // 2, side, side], axis=1)


def random_box(
    sizes: tf.Tensor, min_area: float, seed: int, epoch: tf.Tensor, index: tf.Tensor
) -> tf.Tensor:
    """Returns boxes with random area, aspect ratio and position.

    The area is uniform between `min_area` and 1, as a fraction of the image. The logarithm of the
    aspect ratio is uniform between log(3/4) and log(4/3). Ten such pairs are drawn, and the first
    one that fits in the image is used. If none fits, the box is the largest central one with an
    allowed aspect ratio.

    Args:
      sizes: int32 [B, 2], height and width of the images.
      min_area: Minimum fraction of an image's area.
      seed: The run's seed.
      epoch: int64 [B].
      index: int64 [B], index of the example in its data set.

    Returns:
      int32 [B, 4].

    References:
      Szegedy et al., https://arxiv.org/abs/1409.4842, section 6. The details follow torchvision's
      RandomResizedCrop, which published recipes use.
    """
    drawn = tf.transpose(uniforms(seed, epoch, index, _DRAWS))  # [B, draws]
    area_draw, aspect_draw, top_draw, left_draw = tf.split(drawn, [_TRIES, _TRIES, 1, 1], axis=1)
    height, width = (tf.cast(sizes[:, i : i + 1], tf.float32) for i in (0, 1))  # [B, 1]
    area = height * width * (min_area + area_draw * (1.0 - min_area))  # [B, tries]
    low, high = (math.log(ratio) for ratio in _ASPECT)
    aspect = tf.exp(low + aspect_draw * (high - low))
    tried_width, tried_height = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (tf.minimum(tried_width, tried_height) >= 1.0) & (tried_width <= width)
    fits &= tried_height <= height
    # If no box fits, use the largest one that the aspect ratio allows.
    box_width = tf.minimum(width, tf.round(height * _ASPECT[1]))
    box_height = tf.minimum(height, tf.round(width / _ASPECT[0]))
    first = tf.argmax(tf.cast(fits, tf.int32), axis=1)
    found = tf.reduce_any(fits, axis=1)
    box_width = tf.where(found, tf.gather(tried_width, first, batch_dims=1), box_width[:, 0])
    box_height = tf.where(found, tf.gather(tried_height, first, batch_dims=1), box_height[:, 0])
    spare_height, spare_width = height[:, 0] - box_height, width[:, 0] - box_width
    top = tf.floor(top_draw[:, 0] * (spare_height + 1.0))
    left = tf.floor(left_draw[:, 0] * (spare_width + 1.0))
    top = tf.where(found, top, tf.floor(spare_height / 2.0))
    left = tf.where(found, left, tf.floor(spare_width / 2.0))
    return tf.cast(tf.stack([top, left, box_height, box_width], axis=1), tf.int32)
