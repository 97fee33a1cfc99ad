"""Targets, and mixup and CutMix of pairs of examples.

The examples at positions 2k and 2k + 1 of the global order form a pair and are mixed with each
other. So partners and mixing weights do not depend on the number of workers, as long as each
worker's batch is a multiple of 2.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.data.order import uniforms

# Number of examples that are mixed with each other.
GROUP = 2

# The draws in augment.py start at 0.
_DRAWS = range(1000, 1006)  # mixup weight, CutMix area, row, column, which of the two, whether

# Number of intervals of the piecewise linear quantile function.
_KNOTS = 4096


def one_hot(labels: tf.Tensor, num_classes: int, smoothing: float = 0.0) -> tf.Tensor:
    """Returns targets with label smoothing, spread over all classes including the right one.

    Args:
      labels: int32 [B] in [0, num_classes).
      num_classes: C.
      smoothing: In [0, 1).

    Returns:
      float32 [B, C]; each row sums to 1.

    References:
      Szegedy et al., Rethinking the Inception Architecture, 2016, section 7.
    """
    rest = smoothing / num_classes
    return tf.one_hot(labels, num_classes, on_value=1.0 - smoothing + rest, off_value=rest)


def mix(
    images: tf.Tensor,
    target: tf.Tensor,
    readable: tf.Tensor,
    config: DataConfig,
    seed: int,
    epoch: tf.Tensor,
    index: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies mixup, CutMix, or one of the two at random to each pair, depending on the settings.

    Args:
      images: float32 [B, H, W, 3], B even.
      target: float32 [B, C].
      readable: bool [B]; an unreadable image is not mixed into its partner.
      config: Provides mixup_alpha, cutmix_alpha, cutmix_probability and mix_probability.
      seed: The run's seed.
      epoch: int64 [B].
      index: int64 [B], index of the example in its data set.

    Returns:
      images and target, with the same shapes.
    """
    # Both examples of a pair use the random numbers of the first.
    drawn = uniforms(seed, epoch[::GROUP], index[::GROUP], _DRAWS)
    mixup_part, cutmix_part, row, column, switch, mixed = tf.unstack(
        tf.repeat(drawn, GROUP, axis=1)
    )
    height, width = images.shape[1:3]
    keep = tf.ones_like(index, tf.float32)
    own = tf.ones([1, height, width, 1])  # weight of the image's own pixels
    if config.mixup_alpha:
        keep = beta_quantile(config.mixup_alpha, mixup_part)
        own = keep[:, tf.newaxis, tf.newaxis, tf.newaxis]
    if config.cutmix_alpha:
        wanted = beta_quantile(config.cutmix_alpha, cutmix_part)
        box = cutmix_box(wanted, row, column, height, width)
        probability = config.cutmix_probability if config.mixup_alpha else 1.0
        cut = switch < probability
        # The box is clipped at the border, so use its actual area.
        keep = tf.where(cut, 1.0 - tf.reduce_mean(box, axis=[1, 2, 3]), keep)
        own = tf.where(cut[:, tf.newaxis, tf.newaxis, tf.newaxis], 1.0 - box, own)
    alone = ~swap_partners(readable) | (mixed >= config.mix_probability)
    keep = tf.where(alone, 1.0, keep)
    own = tf.where(alone[:, tf.newaxis, tf.newaxis, tf.newaxis], 1.0, own)
    return blend_partners(images, own), blend_partners(target, keep[:, tf.newaxis])


def beta_quantile(alpha: float, probability: tf.Tensor) -> tf.Tensor:
    """Transforms uniform random numbers to the distribution Beta(alpha, alpha).

    Args:
      alpha: Greater than 0. With small values most pairs are hardly mixed.
      probability: float32 [B] in [0, 1).

    Returns:
      float32 [B] in [0, 1].
    """
    from scipy.special import betaincinv  # slow to import, and most runs do not mix

    quantiles = betaincinv(alpha, alpha, np.linspace(0.0, 1.0, _KNOTS + 1)).astype(np.float32)
    place = probability * _KNOTS
    below = tf.floor(place)
    knot = tf.cast(below, tf.int32)
    low, high = tf.gather(quantiles, knot), tf.gather(quantiles, knot + 1)
    return low + (high - low) * (place - below)


def cutmix_box(
    keep: tf.Tensor, row: tf.Tensor, column: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    """Returns a mask of a box with the area 1 - keep, clipped at the border.

    Args:
      keep: float32 [B] in [0, 1], fraction of the image outside the box.
      row: float32 [B] in [0, 1), vertical center of the box.
      column: float32 [B] in [0, 1), horizontal center of the box.
      height: H.
      width: W.

    Returns:
      float32 [B, H, W, 1], 1 inside and 0 outside.

    References:
      Yun et al., CutMix, https://arxiv.org/abs/1905.04899, section 3.1.
    """

    def covers(center: tf.Tensor, length: int) -> tf.Tensor:
        middle = tf.floor(center * length)
        half = tf.floor(tf.floor(length * tf.sqrt(1.0 - keep)) / 2.0)
        places = tf.range(length, dtype=tf.float32)
        low, high = (middle - half)[:, tf.newaxis], (middle + half)[:, tf.newaxis]
        return tf.cast((places >= low) & (places < high), tf.float32)  # [B, length]

    rows, columns = covers(row, height), covers(column, width)
    return rows[:, :, tf.newaxis, tf.newaxis] * columns[:, tf.newaxis, :, tf.newaxis]


def blend_partners(values: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
    """Returns own * value + (1 - own) * partner's value.

    Args:
      values: float32 [B, ...], B even.
      own: float32 in [0, 1], broadcast to `values`.

    Returns:
      As `values`.

    References:
      Zhang et al., mixup, https://arxiv.org/abs/1710.09412. One mixing weight per pair corresponds
      to the mode "pair" in timm.
    """
    return own * values + (1.0 - own) * swap_partners(values)


def swap_partners(values: tf.Tensor) -> tf.Tensor:
    """Swaps the two values of each pair.

    Args:
      values: [B, ...], B even.

    Returns:
      As `values`.
    """
    pairs = tf.reshape(values, [-1, GROUP, *values.shape[1:]])  # [B, ...] -> [B/2, 2, ...]
    return tf.reshape(tf.reverse(pairs, [1]), tf.shape(values))
