"""Applies a function to each element of a batch, and tolerates errors of single elements."""

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
    """Calls `function` on each element of a batch, and uses a default where it fails.

    A graph cannot catch errors, but a tf.data pipeline can drop elements with an error. So the
    elements and their positions pass through a separate pipeline, and the results are put back in
    their positions. CPU time per file for 32 px JPEGs: 37 to 45 microseconds with a plain
    `tf.map_fn`, 55 to 64 with this function and two files in parallel. A photograph takes ten times
    as long.

    Args:
      function: Takes one element of each of `inputs`.
      inputs: Tensors [b, ...].
      default: The result where `function` fails.
      batch_size: b.
      parallel: Number of elements that are processed in parallel.

    Returns:
      The results, [b, ...] each, and whether `function` succeeded, bool [b].
    """
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    # Add an element that cannot fail. `get_single_element` needs it if all others fail.
    last = tuple(tf.expand_dims(value, 0) for value in (tf.constant(batch_size), *default))
    survivors = (
        tf.data.Dataset.from_tensor_slices((tf.range(batch_size), *values))
        .map(
            lambda place, *value: (place, *function(*value)),
            num_parallel_calls=parallel,
            deterministic=True,  # so that no sorting is needed if nothing failed
        )
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensor_slices(last))
        .batch(batch_size + 1)
    )
    places, *found = survivors.get_single_element()  # [n+1] each, n <= b
    count = tf.size(places)
    where = tf.fill([batch_size + 1], count - 1)  # initially the default
    where = tf.tensor_scatter_nd_update(where, places[:, tf.newaxis], tf.range(count))
    where = where[:batch_size]

    def in_place(value: tf.Tensor) -> tf.Tensor:
        # If nothing failed, the results are in order, and a gather would be a useless copy.
        return tf.cond(
            count > batch_size, lambda: value[:batch_size], lambda: tf.gather(value, where)
        )

    results = (
        tf.ensure_shape(in_place(value), [batch_size, *like.shape])
        for value, like in zip(found, default, strict=True)
    )
    return tuple(results), where < count - 1
