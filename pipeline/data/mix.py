"""Targets, and mixing two examples and their targets.

Partners are the two examples of a pair: positions 2k and 2k + 1 of the global order. So who mixes
with whom, and by how much, is the same for any number of workers whose batch is a multiple of 2.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

from pipeline.data.order import uniform

# Examples that are mixed with one another.
GROUP = 2

# augment.py counts its draws from 0.
_MIXUP_LAMBDA = 1000

# Knots of the quantile function between which it is taken as straight.
_KNOTS = 4096


def one_hot(labels: tf.Tensor, num_classes: int, smoothing: float = 0.0) -> tf.Tensor:
    """Targets with `smoothing` of their weight spread over all classes, the right one included.

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


def mixup_lambda(alpha: float, seed: int, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """How much of itself each example keeps: Beta(alpha, alpha), one draw a pair.

    Args:
      alpha: Above 0; small values keep most pairs nearly unmixed.
      seed: The run's seed.
      epoch: int64 [B], B even.
      index: int64 [B], the example in its data set.

    Returns:
      float32 [B] in [0, 1].
    """
    # The number belongs to the first of each pair.
    draw = uniform(seed, epoch[::GROUP], index[::GROUP], _MIXUP_LAMBDA)  # [B/2]
    quantiles = betaincinv(alpha, alpha, np.linspace(0.0, 1.0, _KNOTS + 1)).astype(np.float32)
    place = draw * _KNOTS
    below = tf.floor(place)
    knot = tf.cast(below, tf.int32)
    low, high = tf.gather(quantiles, knot), tf.gather(quantiles, knot + 1)
    return tf.repeat(low + (high - low) * (place - below), GROUP)  # [B/2] -> [B]


def mixup(values: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
    """Each example mixed with its partner: keep * own + (1 - keep) * partner's.

    Args:
      values: float32 [B, ...], images or targets; B even.
      keep: float32 [B] in [0, 1].

    Returns:
      As `values`.

    References:
      Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018, with the pairs and the one
      number a pair of timm's mode "pair".
    """
    keep = tf.reshape(keep, [-1] + [1] * (len(values.shape) - 1))
    return keep * values + (1.0 - keep) * swap_partners(values)


def swap_partners(values: tf.Tensor) -> tf.Tensor:
    """The partner's value in each place.

    Args:
      values: [B, ...], B even.

    Returns:
      As `values`.
    """
    pairs = tf.reshape(values, [-1, GROUP, *values.shape[1:]])  # [B, ...] -> [B/2, 2, ...]
    return tf.reshape(tf.reverse(pairs, [1]), tf.shape(values))
