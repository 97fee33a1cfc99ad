"""Changes of colour and sharpness to whole batches; how strong they are is an argument.

Values are cut to whole numbers as Pillow cuts them, so that results equal Pillow's.
"""

from __future__ import annotations

import tensorflow as tf


def jitter(
    images: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor, saturation: tf.Tensor
) -> tf.Tensor:
    """Changes brightness, then contrast, then saturation.

    Args:
      images: uint8 [B, H, W, 3].
      brightness: float32 [B]; 0 is black, 1 the image.
      contrast: float32 [B]; 0 is the mean grey.
      saturation: float32 [B]; 0 is grey.

    Returns:
      As `images`.
    """
    values = tf.cast(images, tf.float32)
    values = blend(tf.zeros_like(values), values, per_image(brightness))
    mean = tf.floor(tf.reduce_mean(grey(values), axis=[1, 2]) + 0.5)  # [B]
    values = blend(per_image(mean), values, per_image(contrast))
    values = blend(grey(values)[..., tf.newaxis], values, per_image(saturation))
    return tf.cast(values, tf.uint8)


def three_augment(images: tf.Tensor, choice: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """Makes each image grey, solarizes it, or blurs it.

    Args:
      images: uint8 [B, H, W, 3].
      choice: int32 [B]: 0 grey, 1 solarized above 127, 2 blurred.
      radius: float32 [B], standard deviation of the blur in pixels, 0.1 to 2.

    Returns:
      As `images`.

    References:
      Touvron et al., DeiT III, https://arxiv.org/abs/2204.07118, section 3.2.
    """
    values = tf.cast(images, tf.float32)
    choice = per_image(choice)
    values = tf.where(choice == 0, grey(values)[..., tf.newaxis], values)
    values = tf.where((choice == 1) & (values >= 128.0), 255.0 - values, values)
    blurred = tf.where(choice[:, 0, 0, 0] == 2)  # [n, 1]
    some = blurred[:, 0]
    smooth = blur(tf.gather(values, some), tf.gather(radius, some))
    return tf.cast(tf.tensor_scatter_nd_update(values, blurred, smooth), tf.uint8)


def blur(values: tf.Tensor, radius: tf.Tensor, reach: int = 6) -> tf.Tensor:
    """Gaussian blur with a standard deviation an image, the border repeated.

    Args:
      values: float32 [B, H, W, C].
      radius: float32 [B], in pixels.
      reach: Pixels on each side that count: three times the largest radius.

    Returns:
      As `values`, whole numbers.
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


def grey(values: tf.Tensor) -> tf.Tensor:
    """Luma of ITU-R BT.601 in Pillow's whole numbers.

    Args:
      values: uint8, or float32 whole numbers, [B, H, W, 3].

    Returns:
      float32 [B, H, W], whole numbers.
    """
    weights = tf.constant([19595, 38470, 7471], tf.int32)
    total = tf.reduce_sum(tf.cast(values, tf.int32) * weights, axis=-1)
    return tf.cast(tf.bitwise.right_shift(total + 0x8000, 16), tf.float32)


def blend(one: tf.Tensor, other: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """one + factor * (other - one), cut to 0..255 and to whole numbers; float32."""
    return tf.floor(tf.clip_by_value(one + factor * (other - one), 0.0, 255.0))


def per_image(value: tf.Tensor) -> tf.Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return value[:, tf.newaxis, tf.newaxis, tf.newaxis]
