"""Intensity transformations: each channel's levels, 0 to 255, are mapped to new levels.

The results equal Pillow's.
"""

from __future__ import annotations

import tensorflow as tf

from pipeline.data.augment.batched_switch import per_image


def posterize(images: tf.Tensor, bits_taken: tf.Tensor) -> tf.Tensor:
    """Sets the lowest bits to 0.

    Args:
      images: uint8 [B, H, W, C].
      bits_taken: int32 [B], number of bits to clear, 0 to 8.

    Returns:
      As `images`.
    """
    kept = 256 - tf.bitwise.left_shift(1, bits_taken)
    return tf.bitwise.bitwise_and(images, per_image(tf.cast(kept, tf.uint8)))


def solarize(images: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Inverts all levels that are at least a threshold.

    Args:
      images: uint8 [B, H, W, C].
      threshold: int32 [B], 0 to 256.

    Returns:
      As `images`.
    """
    lowest_inverted = tf.cast(tf.minimum(threshold, 255), tf.uint8)
    all_bits = tf.where(threshold > 255, tf.constant(0, tf.uint8), tf.constant(255, tf.uint8))
    # 255 - level equals level XOR 255. A `tf.where` takes six times as long.
    inverted = tf.cast(images >= per_image(lowest_inverted), tf.uint8) * per_image(all_bits)
    return tf.bitwise.bitwise_xor(images, inverted)


def autocontrast(images: tf.Tensor) -> tf.Tensor:
    """Stretches the range of each channel of an image to 0..255.

    Args:
      images: uint8 [B, H, W, C].

    Returns:
      As `images`.
    """
    _, height, width, channels = images.shape
    low = tf.cast(tf.reduce_min(images, axis=[1, 2]), tf.float64)  # [B, C]
    high = tf.cast(tf.reduce_max(images, axis=[1, 2]), tf.float64)
    # Use Pillow's formula and precision. The results are often exact integers and are rounded down,
    # so another formula or precision would give other levels.
    scale = 255.0 / tf.maximum(high - low, 1.0)
    # A constant channel does not change.
    scale = tf.where(high > low, scale, tf.ones_like(scale))
    offset = tf.where(high > low, low * scale, tf.zeros_like(scale))

    def by_row(value: tf.Tensor) -> tf.Tensor:
        return tf.tile(value, [1, width])[:, tf.newaxis]  # [B, C] -> [B, 1, W*C]

    rows = tf.cast(tf.reshape(images, [-1, height, width * channels]), tf.float64)
    stretched = tf.cast(rows * by_row(scale) - by_row(offset), tf.uint8)
    return tf.reshape(stretched, tf.shape(images))


def equalize(images: tf.Tensor) -> tf.Tensor:
    """Equalizes the histogram of each channel.

    Args:
      images: uint8 [B, H, W, C].

    Returns:
      As `images`.
    """
    _, height, width, channels = images.shape
    count = tf.shape(images)[0]
    # One histogram and one table hold 256 entries for each channel of each image.
    color_start = tf.constant([256 * color for color in range(channels)] * (height * width))
    image_start = tf.range(count)[:, tf.newaxis] * (256 * channels)
    places = tf.cast(tf.reshape(images, [-1, height * width * channels]), tf.int32)
    places += color_start + image_start  # [B, H*W*C]
    size = count * (256 * channels)
    histogram = tf.raw_ops.Bincount(arr=places, size=size, weights=tf.zeros([0], tf.int32))
    table = _equalizing_table(tf.reshape(histogram, [-1, channels, 256]), images)
    return tf.reshape(tf.gather(tf.reshape(table, [-1]), places), tf.shape(images))


def _equalizing_table(histogram: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Maps histograms to lookup tables of new levels: int32 [B, C, 256] -> uint8 [B, C, 256]."""
    highest = tf.cast(tf.reduce_max(images, axis=[1, 2]), tf.int32)  # [B, C]
    last = tf.gather(histogram, highest, batch_dims=2)
    step = (tf.reduce_sum(histogram, axis=2) - last)[:, :, tf.newaxis] // 255  # [B, C, 1]
    before = tf.cumsum(histogram, axis=2, exclusive=True)
    table = tf.minimum((step // 2 + before) // tf.maximum(step, 1), 255)
    return tf.cast(tf.where(step > 0, table, tf.range(256)), tf.uint8)
