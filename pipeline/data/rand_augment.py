"""RandAugment on whole batches: each image goes through operations of its own.

Images that drew the same kind of operation are changed together: all geometric ones in one
resampling, all that look only at a pixel's value through one table an image and colour. Results
equal Pillow's, but for the borders of resampled images (tests/data/test_rand_augment.py).

References:
  Cubuk et al., RandAugment, https://arxiv.org/abs/1909.13719; operations and their ranges are those
  of AutoAugment, https://arxiv.org/abs/1805.09501, table 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from pipeline.data.color import blend, grey, per_image
from pipeline.data.order import uniform

OPERATIONS = (
    "identity", "autocontrast", "equalize", "posterize", "solarize", "brightness", "contrast",
    "color", "sharpness", "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
_ID = {name: number for number, name in enumerate(OPERATIONS)}
_BY_VALUE = ("autocontrast", "posterize", "solarize", "brightness", "contrast")
_GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

LARGEST_MAGNITUDE = 10.0
# At the largest magnitude: 30 degrees, a shear of 0.3, 150 of 331 pixels, a factor of 0.1 or 1.9.
_ROTATION, _SHEAR, _TRANSLATION, _ENHANCEMENT = math.pi / 6, 0.3, 150 / 331, 0.9
_POSTERIZED_BITS = 4
_FILL = 128.0

# augment.py counts its draws from 0 and mix.py from 1000; a layer takes two.
_FIRST_DRAW = 100


def rand_augment(
    images: tf.Tensor,
    layers: int,
    magnitude: float,
    seed: int,
    epoch: tf.Tensor,
    index: tf.Tensor,
) -> tf.Tensor:
    """Changes each image by `layers` operations, drawn with equal chances, one after another.

    Args:
      images: uint8 [B, H, W, 3].
      layers: N of the paper.
      magnitude: M of the paper, 0 to 10; signs are drawn.
      seed: The run's seed.
      epoch: int64 [B].
      index: int64 [B], the example in its data set.

    Returns:
      As `images`.
    """
    for layer in range(layers):
        draw = uniform(seed, epoch, index, _FIRST_DRAW + 2 * layer)
        operation = tf.cast(draw * len(OPERATIONS), tf.int32)
        sign = uniform(seed, epoch, index, _FIRST_DRAW + 2 * layer + 1) < 0.5
        strength = tf.where(sign, -magnitude, magnitude) / LARGEST_MAGNITUDE
        images = apply(images, operation, strength)
    return images


def apply(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Each image changed by one operation.

    Args:
      images: uint8 [B, H, W, 3].
      operation: int32 [B], places in OPERATIONS.
      strength: float32 [B] in [-1, 1]; the sign counts where an operation has two directions.

    Returns:
      As `images`.
    """

    def among(names: tuple[str, ...]) -> tf.Tensor:
        return tf.reduce_any([operation == _ID[name] for name in names], axis=0)

    kinds: list[tuple[tuple[str, ...], Callable[..., tf.Tensor]]] = [
        (_BY_VALUE, _by_value),
        (("equalize",), _equalize),
        (("color",), _color),
        (("sharpness",), _sharpness),
        (_GEOMETRIC, _geometric),
    ]
    for names, change in kinds:
        images = _change_some(images, among(names), operation, strength, change)
    return images


def _change_some(
    images: tf.Tensor,
    chosen: tf.Tensor,
    operation: tf.Tensor,
    strength: tf.Tensor,
    change: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Those that are chosen, changed; the others as they are."""
    places = tf.where(chosen)  # [n, 1]
    some = places[:, 0]
    changed = change(tf.gather(images, some), tf.gather(operation, some), tf.gather(strength, some))
    return tf.tensor_scatter_nd_update(images, places, changed)


def _by_value(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Operations that turn each of the 256 values of a colour into another.

    Args:
      images: uint8 [n, H, W, 3].
      operation: int32 [n], among _BY_VALUE.
      strength: float32 [n].
    """
    value = tf.range(256, dtype=tf.float32)[tf.newaxis, tf.newaxis]  # [1, 1, 256]
    strength = strength[:, tf.newaxis, tf.newaxis]  # [n, 1, 1]
    size = tf.abs(strength)
    factor = 1.0 + _ENHANCEMENT * strength
    mean = tf.floor(tf.reduce_mean(grey(images), axis=[1, 2]) + 0.5)[:, tf.newaxis, tf.newaxis]
    # Bits are taken away: at full strength half of the eight.
    step = 2.0 ** tf.round(size * _POSTERIZED_BITS)
    tables = {
        "autocontrast": _autocontrast_table(images, value),
        "posterize": tf.floor(value / step) * step,
        "solarize": tf.where(value < 256.0 * (1.0 - size), value, 255.0 - value),
        "brightness": blend(tf.zeros_like(mean), value, factor),
        "contrast": blend(mean, value, factor),
    }
    table = tf.zeros([tf.shape(images)[0], 3, 256])
    for name, one in tables.items():
        table = tf.where((operation == _ID[name])[:, tf.newaxis, tf.newaxis], one, table)
    return _look_up(images, table)


def _autocontrast_table(images: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Stretches what a colour has to 0..255, [n, 3, 256]."""
    low = tf.cast(tf.reduce_min(images, axis=[1, 2]), tf.float64)[:, :, tf.newaxis]  # [n, 3, 1]
    high = tf.cast(tf.reduce_max(images, axis=[1, 2]), tf.float64)[:, :, tf.newaxis]
    # Pillow's formula in Pillow's precision: its quotients are often whole, and rounded down.
    scale = 255.0 / tf.maximum(high - low, 1.0)
    stretched = tf.floor(tf.cast(value, tf.float64) * scale - low * scale)
    stretched = tf.cast(tf.clip_by_value(stretched, 0.0, 255.0), tf.float32)
    return tf.where(high > low, stretched, value)


def _equalize(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Spreads each colour's values so that equally many pixels have each, as Pillow does it."""
    count = tf.shape(images)[0]
    rows = tf.range(count * 3)[:, tf.newaxis] * 256  # [3n, 1]
    values = tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [count * 3, -1])  # [3n, H*W]
    places = tf.reshape(rows + tf.cast(values, tf.int32), [-1])
    histogram = tf.math.bincount(places, minlength=count * 768, maxlength=count * 768)
    histogram = tf.reshape(histogram, [count, 3, 256])
    highest = tf.cast(tf.reduce_max(images, axis=[1, 2]), tf.int32)  # [n, 3]
    last = tf.gather(histogram, highest, batch_dims=2)
    step = (tf.reduce_sum(histogram, axis=2) - last)[:, :, tf.newaxis] // 255  # [n, 3, 1]
    before = tf.cumsum(histogram, axis=2, exclusive=True)
    table = tf.minimum((step // 2 + before) // tf.maximum(step, 1), 255)
    same = tf.broadcast_to(tf.range(256), tf.shape(table))
    return _look_up(images, tf.cast(tf.where(step > 0, table, same), tf.float32))


def _look_up(images: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Each value replaced by what stands in its place of the table, [n, 3, 256]."""
    table = tf.cast(table, tf.uint8)
    rows = tf.reshape(tf.range(tf.shape(images)[0] * 3) * 256, [-1, 1, 1, 3])
    return tf.gather(tf.reshape(table, [-1]), rows + tf.cast(images, tf.int32))


def _color(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Between grey (factor 0), the image (1), and beyond."""
    dull = grey(images)[..., tf.newaxis]  # [n, H, W, 1]
    factor = per_image(1.0 + _ENHANCEMENT * strength)
    return tf.cast(blend(dull, tf.cast(images, tf.float32), factor), tf.uint8)


def _sharpness(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Between a smoothed image (factor 0), the image (1), and beyond; the border stays."""
    values = tf.cast(images, tf.float32)
    height, width = images.shape[1:3]
    total = 4.0 * values[:, 1:-1, 1:-1]  # the middle weighs 5, its neighbours 1
    for top in range(3):
        for left in range(3):
            total += values[:, top : height - 2 + top, left : width - 2 + left]
    rows, columns = tf.range(height), tf.range(width)
    inside = ((rows % (height - 1)) > 0)[:, tf.newaxis] & ((columns % (width - 1)) > 0)  # [H, W]
    smooth = tf.pad(tf.floor(total / 13.0 + 0.5), [[0, 0], [1, 1], [1, 1], [0, 0]])
    smooth = tf.where(inside[tf.newaxis, :, :, tf.newaxis], smooth, values)
    return tf.cast(blend(smooth, values, per_image(1.0 + _ENHANCEMENT * strength)), tf.uint8)


def _geometric(images: tf.Tensor, operation: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Rotation about the centre, shear about the top left corner, translation; bilinear."""
    height, width = images.shape[1:3]

    def when(name: str, value: tf.Tensor) -> tf.Tensor:
        return tf.where(operation == _ID[name], value, 0.0)

    angle = when("rotate", strength * _ROTATION)
    cos, sin = tf.cos(angle), tf.sin(angle)
    shear_x, shear_y = when("shear_x", strength * _SHEAR), when("shear_y", strength * _SHEAR)
    # From a place in the result to one in the image, both measured from the corner. Only one of
    # the operations is not the identity, so sums stand for products.
    a, b, d, e = cos, shear_x - sin, shear_y + sin, cos
    turned = tf.cast(operation == _ID["rotate"], tf.float32)
    c = turned * (width - cos * width + sin * height) / 2.0
    f = turned * (height - sin * width - cos * height) / 2.0
    c += when("translate_x", strength * _TRANSLATION * width)
    f += when("translate_y", strength * _TRANSLATION * height)
    # TensorFlow counts from the middle of the first pixel, half a pixel from the corner.
    c += (a + b - 1.0) / 2.0
    f += (d + e - 1.0) / 2.0
    zero = tf.zeros_like(angle)
    resampled = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),  # [n, 8]
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=_FILL,
    )
    return tf.cast(tf.floor(tf.clip_by_value(resampled, 0.0, 255.0) + 0.5), tf.uint8)
