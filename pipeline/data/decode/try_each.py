"""A function of each element of a batch, where some elements fail."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def try_each(
    function: Callable[..., tuple[tf.Tensor, ...]],
    inputs: tf.Tensor | tuple[tf.Tensor, ...],
    default: tuple[tf.Tensor, ...],
    batch_size: int,
    parallel: int,
) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
    """Calls `function` on each element of a batch, and survives those where it fails.

    A graph cannot catch an error, but a tf.data pipeline can drop the elements that have one. So
    the batch runs through a pipeline of its own, each element with its place, and what comes out
    is put where it belongs. Measured on 32 px JPEGs, CPU time a file: 37 to 45 microseconds with
    an unprotected `tf.map_fn`, 55 to 64 with this and two files at a time. A photograph takes ten
    times that; and with several at a time shared storage is waited for side by side.

    Args:
      function: Of one element of each of `inputs`.
      inputs: [b, ...] each.
      default: What stands where `function` failed.
      batch_size: b.
      parallel: Elements at a time.

    Returns:
      The results, [b, ...] each, and where `function` succeeded, bool [b].
    """
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    # A last element that cannot fail: `get_single_element` needs one where every other does.
    last = tuple(tf.expand_dims(value, 0) for value in (tf.constant(batch_size), *default))
    survivors = (
        tf.data.Dataset.from_tensor_slices((tf.range(batch_size), *values))
        .map(
            lambda place, *value: (place, *function(*value)),
            num_parallel_calls=parallel,
            deterministic=True,  # so that nothing need be sorted where none failed
        )
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensor_slices(last))
        .batch(batch_size + 1)
    )
    places, *found = survivors.get_single_element()  # [n+1] each, n <= b
    count = tf.size(places)
    where = tf.fill([batch_size + 1], count - 1)  # the default, until something is found
    where = tf.tensor_scatter_nd_update(where, places[:, tf.newaxis], tf.range(count))
    where = where[:batch_size]

    def in_place(value: tf.Tensor) -> tf.Tensor:
        # Where none failed all are in order, and a gather would copy the batch for nothing.
        return tf.cond(
            count > batch_size, lambda: value[:batch_size], lambda: tf.gather(value, where)
        )

    results = (
        tf.ensure_shape(in_place(value), [batch_size, *like.shape])
        for value, like in zip(found, default, strict=True)
    )
    return tuple(results), where < count - 1
