"""RandAugment for whole batches, with different operations for each image.

A batch is partitioned by operation, and each operation runs once on its images. The results equal
Pillow's, byte for byte (tests/data/augment/test_rand_augment.py).

References:
  Cubuk et al., RandAugment, https://arxiv.org/abs/1909.13719; operations and their ranges are those
  of AutoAugment, https://arxiv.org/abs/1805.09501, table 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from pipeline.data.augment import color, intensity
from pipeline.data.augment.affine import resample
from pipeline.data.augment.batched_switch import batched_switch
from pipeline.data.order import uniforms

OPERATIONS = (
    "identity", "autocontrast", "equalize", "posterize", "solarize", "brightness", "contrast",
    "color", "sharpness", "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
_ID = {name: number for number, name in enumerate(OPERATIONS)}

LARGEST_MAGNITUDE = 10.0
# At the largest magnitude: 30 degrees, shear of 0.3, 150 of 331 pixels, factor of 0.1 or 1.9.
_ROTATION, _SHEAR, _TRANSLATION, _ENHANCEMENT = math.pi / 6, 0.3, 150 / 331, 0.9
_POSTERIZED_BITS = 4
_FILL = 128

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

    def change(layer: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return layer + 1, apply(images, operations[layer], strengths[layer])

    # A loop in the graph, because tracing the operations takes 0.15 to 0.2 s per layer.
    _, images = tf.while_loop(
        lambda layer, _: layer < layers, change, (tf.constant(0), images), parallel_iterations=1
    )
    return images


def apply(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Applies one operation to each image.

    Args:
      images: uint8 [B, H, W, 3].
      operation: int32 [B], indices into OPERATIONS.
      strength: float32 [B] in [-1, 1]. The sign matters for operations with two directions.

    Returns:
      As `images`.
    """
    changes: dict[str, Callable[..., tf.Tensor]] = {
        "identity": lambda images, operation, strength: images,
        "autocontrast": lambda images, operation, strength: intensity.autocontrast(images),
        "equalize": lambda images, operation, strength: intensity.equalize(images),
        "posterize": _posterize,
        "solarize": _solarize,
        "brightness": _enhance(color.brightness),
        "contrast": _enhance(color.contrast),
        "color": _enhance(color.saturation),
        "sharpness": _enhance(color.sharpness),
    }
    # The other operations are geometric: one resampling, with a separate matrix per image.
    branch_of = {name: index for index, name in enumerate(changes)}
    branches = tf.constant([branch_of.get(name, len(changes)) for name in OPERATIONS])
    return batched_switch(
        tf.gather(branches, operation), [*changes.values(), _geometric], images, operation, strength
    )


def _posterize(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Clears the lowest bits; half of the eight at full strength."""
    bits_taken = tf.round(tf.abs(strength) * _POSTERIZED_BITS)
    return intensity.posterize(images, tf.cast(bits_taken, tf.int32))


def _solarize(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Inverts the brighter levels; all of them at full strength."""
    threshold = tf.math.ceil(256.0 * (1.0 - tf.abs(strength)))
    return intensity.solarize(images, tf.cast(threshold, tf.int32))


def _enhance(
    change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Turns a function of a factor into a function of a strength."""
    return lambda images, operation, strength: change(images, 1.0 + _ENHANCEMENT * strength)


def _geometric(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Rotates about the center, shears about the top left corner, or translates."""
    height, width = images.shape[1:3]
    strength = tf.cast(strength, tf.float64)

    def when(name: str, value: tf.Tensor) -> tf.Tensor:
        return tf.where(operation == _ID[name], value, tf.constant(0.0, tf.float64))

    angle = when("rotate", strength * _ROTATION)
    cos, sin = tf.cos(angle), tf.sin(angle)
    # At most one of the operations is not the identity, so sums can replace products.
    b = when("shear_x", strength * _SHEAR) - sin
    d = when("shear_y", strength * _SHEAR) + sin
    c = when("rotate", (width - cos * width + sin * height) / 2.0)
    f = when("rotate", (height - sin * width - cos * height) / 2.0)
    c += when("translate_x", strength * (_TRANSLATION * width))
    f += when("translate_y", strength * (_TRANSLATION * height))
    return resample(images, tf.stack([cos, b, c, d, cos, f], axis=1), _FILL)
