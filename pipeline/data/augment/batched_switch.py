"""Applies a different function to each image of a batch, like `jax.lax.switch` per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf


def batched_switch(
    branch_index: tf.Tensor, branches: Sequence[Callable[..., tf.Tensor]], *operands: tf.Tensor
) -> tf.Tensor:
    """Applies to each example the branch with its index.

    Examples are partitioned by branch, each branch runs once on its examples, and the results are
    put back in order. This costs about as much as two element-wise operations, and no branch runs
    on examples that do not need it.

    Args:
      branch_index: int32 [B], indices into `branches`.
      branches: Functions that take a part [n, ...] of each operand, with 0 <= n <= B, and return
        [n, ...]. All must return the same shape and dtype.
      *operands: Tensors [B, ...].

    Returns:
      [B, ...], in the order of `branch_index`.
    """
    parts = [tf.dynamic_partition(operand, branch_index, len(branches)) for operand in operands]
    positions = tf.dynamic_partition(tf.range(tf.size(branch_index)), branch_index, len(branches))
    results = [branch(*own) for branch, *own in zip(branches, *parts, strict=True)]
    stitched = tf.dynamic_stitch(positions, results)
    return tf.ensure_shape(stitched, [*branch_index.shape, *stitched.shape[1:]])


def per_image(value: tf.Tensor) -> tf.Tensor:
    """Reshapes [B] to [B, 1, 1, 1], to broadcast over images."""
    return value[:, tf.newaxis, tf.newaxis, tf.newaxis]
