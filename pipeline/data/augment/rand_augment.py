"""RandAugment for whole batches, with different operations for each image.

The operations are drawn in the graph and applied by `pixel_operations.py`, image by image. The
results equal Pillow's, byte for byte (tests/data/augment/test_rand_augment.py).

References:
  Cubuk et al., RandAugment, https://arxiv.org/abs/1909.13719; operations and their ranges are those
  of AutoAugment, https://arxiv.org/abs/1805.09501, table 6.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.data.order import uniforms

OPERATIONS = (
    "identity", "autocontrast", "equalize", "posterize", "solarize", "brightness", "contrast",
    "color", "sharpness", "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip

LARGEST_MAGNITUDE = 10.0
# At the largest magnitude: 30 degrees, shear of 0.3, 150 of 331 pixels.
_ROTATION, _SHEAR, _TRANSLATION = math.pi / 6, 0.3, 150 / 331
_UNITS = 65_536.0  # of a pixel

# The draws in augment.py start at 0 and those in mix.py at 1000. A layer uses two draws.
_FIRST_DRAW = 100


def rand_augment(
    images: tf.Tensor,
    layers: int,
    magnitude: float,
    seed: int,
    epoch: tf.Tensor,
    index: tf.Tensor,
) -> tf.Tensor:
    """Applies `layers` random operations to each image, one after another.

    Args:
      images: uint8 [B, H, W, 3].
      layers: Number of operations, N in the paper.
      magnitude: M in the paper, 0 to 10. Signs are random.
      seed: The run's seed.
      epoch: int64 [B].
      index: int64 [B], index of the example in its data set.

    Returns:
      As `images`.
    """
    draws = range(_FIRST_DRAW, _FIRST_DRAW + 2 * layers)
    drawn = tf.reshape(uniforms(seed, epoch, index, draws), [layers, 2, -1])
    operations = tf.cast(drawn[:, 0] * len(OPERATIONS), tf.int32)  # [layers, B]
    strengths = tf.where(drawn[:, 1] < 0.5, -magnitude, magnitude) / LARGEST_MAGNITUDE
    return apply(images, operations, strengths)


def apply(images: tf.Tensor, operations: tf.Tensor, strengths: tf.Tensor) -> tf.Tensor:
    """Applies operations to each image, one after another.

    Args:
      images: uint8 [B, H, W, 3].
      operations: int32 [layers, B], indices into OPERATIONS.
      strengths: float32 [layers, B] in [-1, 1]. The sign matters for operations with two
        directions.

    Returns:
      As `images`.
    """

    def changed(images: npt.NDArray[np.uint8], *how: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        from pipeline.data.augment.pixel_operations import change_batch  # numba is slow to import

        result = images.copy()
        change_batch(result, *how)
        return result

    height, width = images.shape[1:3]
    places = _places(_matrices(operations, strengths, height, width))
    inputs = [images, operations, strengths, places]
    result = tf.numpy_function(changed, inputs, tf.uint8, stateful=False)
    return tf.ensure_shape(result, images.shape)


def _matrices(
    operations: tf.Tensor, strengths: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, ...]:
    """The affine transformations a to f of geometric operations, float64 [layers, B] each.

    They rotate about the center, shear about the top left corner, or translate.
    """
    strengths = tf.cast(strengths, tf.float64)

    def when(name: str, value: tf.Tensor) -> tf.Tensor:
        is_it = operations == OPERATIONS.index(name)
        return tf.where(is_it, value, tf.constant(0.0, tf.float64))

    angle = when("rotate", strengths * _ROTATION)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # At most one of the operations is not the identity, so sums can replace products.
    b = when("shear_x", strengths * _SHEAR) - sin
    d = when("shear_y", strengths * _SHEAR) + sin
    c = when("rotate", (width - cos * width + sin * height) / 2.0)
    f = when("rotate", (height - sin * width - cos * height) / 2.0)
    c += when("translate_x", strengths * (_TRANSLATION * width))
    f += when("translate_y", strengths * (_TRANSLATION * height))
    return cos, b, c, d, cos, f


def _places(matrices: tuple[tf.Tensor, ...]) -> tf.Tensor:
    """The transformations of pixel centers in units of 1/65,536, int64 [layers, B, 6]."""
    a, b, c, d, e, f = matrices
    moved = a, b, c + a / 2.0 + b / 2.0, d, e, f + d / 2.0 + e / 2.0
    return tf.cast(tf.floor(tf.stack(moved, axis=-1) * _UNITS + 0.5), tf.int64)
