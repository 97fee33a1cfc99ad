"""Targets: what the model is asked to predict."""

from __future__ import annotations

import tensorflow as tf


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
