"""The evaluation step, and the graph that runs several of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from pipeline.runtimes.runtime import Batch, Runtime
from pipeline.training.metrics import SUMS, sum_metrics

# (iterator, sums so far float64 [4], steps int32 scalar) -> sums float64 [4]
EvalSteps = Callable[[Any, tf.Tensor, tf.Tensor], tf.Tensor]


def make_eval_steps(runtime: Runtime, model: keras.Model, block_size: int | None) -> EvalSteps:
    """Makes the graph that evaluates n batches.

    Args:
      runtime: The runtime.
      model: The model.
      block_size: See `map_blocks`.
    """

    def sums_of(block: Batch) -> tf.Tensor:
        logits = model(block["image"], training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(block["label"], logits)
        return sum_metrics(logits, block["label"], losses, block["weight"])

    def eval_step(batch: Batch) -> tf.Tensor:
        sums = map_blocks(sums_of, batch, [len(SUMS)], runtime.parallel_parts, block_size)
        return tf.reduce_sum(sums, axis=0)

    @tf.function(autograph=False)
    def eval_steps(iterator: Any, totals: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        def add_batch(done: tf.Tensor, totals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return done + 1, totals + runtime.run(eval_step, iterator.get_next())

        _, totals = tf.while_loop(lambda done, _: done < steps, add_batch, (0, totals))
        return totals

    return eval_steps


def map_blocks(
    function: Callable[[Batch], tf.Tensor],
    batch: Batch,
    shape: list[int | None],
    parallel_parts: int,
    block_size: int | None = None,
) -> tf.Tensor:
    """Applies a function to the blocks of a batch, several in parallel.

    Args:
      function: Maps a block to a float64 tensor.
      batch: Tensors [b, ...], among them `weight`.
      shape: Shape of the function's result.
      parallel_parts: Number of blocks to compute in parallel.
      block_size: Number of examples in a block; b must be a multiple of it. The results of an
        example then depend only on its block and its place there, because each block is computed
        with the same shapes and so the same kernels. None for `parallel_parts` blocks, the last of
        which may be padded with zeros.

    Returns:
      float64 [blocks, *shape].
    """
    if block_size is None and parallel_parts == 1:
        return function(batch)[tf.newaxis]
    size = tf.shape(batch["weight"])[0]
    rows = -(-size // parallel_parts) if block_size is None else block_size
    blocks = parallel_parts if block_size is None else size // rows
    padding = tf.maximum(rows * blocks - size, 0)

    def in_blocks(value: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(value, [[0, padding], *[[0, 0]] * (len(value.shape) - 1)])
        return tf.reshape(padded, [blocks, rows, *value.shape[1:]])

    return tf.map_fn(
        function,
        {name: in_blocks(value) for name, value in batch.items()},
        fn_output_signature=tf.TensorSpec(shape, tf.float64),
        parallel_iterations=parallel_parts,
    )
