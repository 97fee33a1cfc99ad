"""Color, contrast and blur for whole batches. Factors are arguments.

Values are truncated to integers in the same way as in Pillow, so that the results are equal.
"""

from __future__ import annotations

import tensorflow as tf

from pipeline.data.augment.batched_switch import batched_switch, per_image
from pipeline.data.augment.intensity import solarize

# Luma weights of ITU-R BT.601 in Pillow's units of 1/65,536, for three equal output channels.
_LUMA = [[19595.0 / 65536.0] * 3, [38470.0 / 65536.0] * 3, [7471.0 / 65536.0] * 3]


def jitter(
    images: tf.Tensor,
    brightness_factor: tf.Tensor,
    contrast_factor: tf.Tensor,
    saturation_factor: tf.Tensor,
) -> tf.Tensor:
    """Changes brightness, then contrast, then saturation.

    Args:
      images: uint8 [B, H, W, 3].
      brightness_factor: float32 [B].
      contrast_factor: float32 [B].
      saturation_factor: float32 [B].

    Returns:
      As `images`.
    """
    images = brightness(images, brightness_factor)
    return saturation(contrast(images, contrast_factor), saturation_factor)


def brightness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Interpolates between black (factor 0) and the image (1), or extrapolates (above 1).

    Args:
      images: uint8 [B, H, W, C].
      factor: float32 [B].

    Returns:
      As `images`.
    """
    return _to_uint8(tf.cast(images, tf.float32) * per_image(factor))


def contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Interpolates between the mean gray (factor 0) and the image (1), or extrapolates (above 1).

    Args:
      images: uint8 [B, H, W, 3].
      factor: float32 [B].

    Returns:
      As `images`.
    """
    values = tf.cast(images, tf.float32)
    # The sum of a row is exact in float32, but not that of a large image.
    rows = tf.cast(tf.reduce_sum(gray(values), axis=[2, 3]), tf.float64)  # [B, H]
    mean = tf.reduce_mean(rows, axis=1) / (3.0 * images.shape[2])
    mean = tf.cast(tf.floor(mean + 0.5), tf.float32)
    return _blend(per_image(mean), values, factor)


def saturation(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Interpolates between grayscale (factor 0) and the image (1), or extrapolates (above 1).

    Args:
      images: uint8 [B, H, W, 3].
      factor: float32 [B].

    Returns:
      As `images`.
    """
    values = tf.cast(images, tf.float32)
    return _blend(gray(values), values, factor)


def three_augment(images: tf.Tensor, choice: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """Applies one of grayscale, solarize and blur to each image.

    Args:
      images: uint8 [B, H, W, 3].
      choice: int32 [B]: 0 grayscale, 1 solarize above 127, 2 blur.
      radius: float32 [B], standard deviation of the blur in pixels, 0.1 to 2.

    Returns:
      As `images`.

    References:
      Touvron et al., DeiT III, https://arxiv.org/abs/2204.07118, section 3.2.
    """
    changes = (
        lambda images, _: tf.cast(gray(tf.cast(images, tf.float32)), tf.uint8),
        lambda images, _: solarize(images, tf.fill([tf.shape(images)[0]], 128)),
        lambda images, radius: tf.cast(blur(tf.cast(images, tf.float32), radius), tf.uint8),
    )
    return batched_switch(choice, changes, images, radius)


def blur(values: tf.Tensor, radius: tf.Tensor, reach: int = 6) -> tf.Tensor:
    """Applies a Gaussian blur with a separate standard deviation per image; borders are repeated.

    Args:
      values: float32 [B, H, W, C].
      radius: float32 [B], standard deviation in pixels.
      reach: Half the kernel size, in pixels: three times the largest radius.

    Returns:
      As `values`, rounded to integers.
    """
    places = tf.range(-reach, reach + 1, dtype=tf.float32)
    kernel = tf.exp(-0.5 * (places / radius[:, tf.newaxis]) ** 2)  # [B, 2*reach+1]
    kernel /= tf.reduce_sum(kernel, axis=1, keepdims=True)
    height, width = values.shape[1:3]
    for axis, length in ((1, height), (2, width)):
        total = tf.zeros_like(values)
        for k in range(-reach, reach + 1):
            place = tf.clip_by_value(tf.range(length) + k, 0, length - 1)
            total += tf.gather(values, place, axis=axis) * per_image(kernel[:, k + reach])
        values = total
    return tf.floor(values + 0.5)


def gray(values: tf.Tensor) -> tf.Tensor:
    """Converts to grayscale by the luma of ITU-R BT.601, with Pillow's rounding.

    Args:
      values: float32 [B, H, W, 3], integers in 0..255.

    Returns:
      float32 [B, H, W, 3], integers; the three channels are equal.
    """
    # Each sum is a multiple of 2**-16 below 2**8, so it is exact in float32.
    return tf.floor(values @ tf.constant(_LUMA) + 0.5)


def _blend(one: tf.Tensor, other: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Returns one + factor * (other - one) as uint8."""
    return _to_uint8(one + per_image(factor) * (other - one))


def _to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Clips to 0..255 and truncates to integers."""
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)
