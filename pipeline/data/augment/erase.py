"""Random erasing for whole batches. Random numbers are arguments."""

from __future__ import annotations

import tensorflow as tf

# Range of the rectangle's area, as a fraction of the image, and of its height over width.
AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)


def erase(
    images: tf.Tensor,
    erased: tf.Tensor,
    area: tf.Tensor,
    aspect: tf.Tensor,
    top: tf.Tensor,
    left: tf.Tensor,
) -> tf.Tensor:
    """Sets a rectangle of each chosen image to 0, the mean of normalized pixels.

    Args:
      images: float32 [B, H, W, C].
      erased: bool [B].
      area: float32 [B] in [0, 1), mapped to AREA.
      aspect: float32 [B] in [0, 1), mapped to ASPECT, uniformly in the logarithm.
      top: float32 [B] in [0, 1), mapped to the positions that keep the rectangle inside the image.
      left: float32 [B] in [0, 1), likewise.

    Returns:
      As `images`.

    References:
      Zhong et al., Random Erasing Data Augmentation, https://arxiv.org/abs/1708.04896.
    """
    height, width = images.shape[1:3]
    part = AREA[0] + area * (AREA[1] - AREA[0])
    ratio = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** aspect
    rows = _size(tf.sqrt(part * ratio * height * width), height)
    columns = _size(tf.sqrt(part / ratio * height * width), width)
    inside = (
        _between(rows, top, height)[:, :, tf.newaxis]
        & _between(columns, left, width)[:, tf.newaxis, :]
    )  # [B, H, W]
    wiped = (inside & erased[:, tf.newaxis, tf.newaxis])[..., tf.newaxis]
    return tf.where(wiped, tf.zeros_like(images), images)


def _size(wanted: tf.Tensor, length: int) -> tf.Tensor:
    return tf.clip_by_value(tf.round(wanted), 1.0, float(length))


def _between(size: tf.Tensor, place: tf.Tensor, length: int) -> tf.Tensor:
    """Returns which of `length` positions an interval of `size` covers, bool [B, length]."""
    first = tf.floor(place * (length - size + 1.0))[:, tf.newaxis]  # [B, 1]
    places = tf.range(length, dtype=tf.float32)[tf.newaxis]
    return (places >= first) & (places < first + size[:, tf.newaxis])
