"""Inverts levels of whole batches, with Pillow's results."""

from __future__ import annotations

import tensorflow as tf

from pipeline.data.augment.batched_switch import per_image


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
