"""Different changes to different examples of a batch, each on its own examples at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def change_by_group(
    group: tf.Tensor, changes: Sequence[Callable[..., tf.Tensor]], *arguments: tf.Tensor
) -> tf.Tensor:
    """Puts each example through the change of its group.

    Examples are sorted into groups once and put back once, whole examples at a time: this costs
    about as much as two elementwise operations, and no example goes through a change in vain.

    Args:
      group: int32 [B], places in `changes`.
      changes: Each takes its part of every argument, [n, ...] with n from 0 to B, and returns
        [n, ...]; all of them return one shape and type.
      *arguments: Tensors [B, ...].

    Returns:
      [B, ...], in the order of `group`.
    """
    parts = [tf.dynamic_partition(argument, group, len(changes)) for argument in arguments]
    places = tf.dynamic_partition(tf.range(tf.size(group)), group, len(changes))
    changed = [change(*mine) for change, *mine in zip(changes, *parts, strict=True)]
    together = tf.dynamic_stitch(places, changed)
    return tf.ensure_shape(together, [*group.shape, *together.shape[1:]])


def per_image(value: tf.Tensor) -> tf.Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return value[:, tf.newaxis, tf.newaxis, tf.newaxis]
