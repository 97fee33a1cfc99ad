"""Finds the replicas and examples that caused a non-finite gradient."""

from __future__ import annotations

from socket import gethostname

import numpy as np
import tensorflow as tf

from pipeline.optim.optimizer import global_norm
from pipeline.runtimes.runtime import Batch
from pipeline.training.experiment import Experiment

_LISTED = 5


def describe_bad_step(experiment: Experiment, step: int, data_step: int) -> str:
    """Repeats a step without its update and describes what was not finite.

    The weights must be the same as in that step. This is the case after a skipped step, which
    does not change them. All processes must call this function.

    Args:
      experiment: The experiment.
      step: Index of the step, from 0.
      data_step: Index of the step's batch in the data, which is larger than `step` if a rollback
        has skipped batches.

    Returns:
      For example "on rank 1 (host7): the loss is not finite for train/cat/7.jpg".
    """
    index, bad, replicas = _compute(experiment, step, data_step)
    runtime = experiment.runtime
    hosts = runtime.all_gather(gethostname())
    per_process = runtime.local_replicas
    ranks = sorted({int(replica) // per_process for replica in np.flatnonzero(replicas)})
    where = ", ".join(f"rank {rank} ({hosts[rank]})" for rank in ranks) or "no single rank"
    split = experiment.source.splits["train"]
    if bad.any():
        found, what = index[bad > 0], "the loss is not finite for"
    else:
        shares = index.reshape(runtime.num_replicas, -1)
        found = shares[replicas > 0].ravel() if replicas.any() else index
        what = "each loss is finite, but the gradient is not, for"
    # A replica with fewer microbatches than others also reads one of the next replica.
    examples = list(dict.fromkeys(found.tolist()))
    names = ", ".join(split.name(example) for example in examples[:_LISTED])
    more = f" and {len(examples) - _LISTED} more" if len(examples) > _LISTED else ""
    return f"on {where}: {what} {names}{more}"


def _compute(
    experiment: Experiment, step: int, data_step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the indices [B] of the global batch, and flags of non-finite losses [B] and replicas
    [R], 0 or 1.
    """
    runtime, model = experiment.runtime, experiment.model
    num_replicas = runtime.num_replicas

    def check(batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        replica = runtime.replica_index()
        is_bad = ~_has_finite_gradients(experiment, batch, tf.constant(step, tf.int64), replica)
        if experiment.config.microbatches is not None:
            batch = {name: _join_microbatches(value) for name, value in batch.items()}
        logits = model(batch["image"], training=False)
        losses = tf.nn.softmax_cross_entropy_with_logits(batch["target"], logits)
        pixels = tf.reduce_sum(tf.cast(batch["image"], tf.float32), axis=[1, 2, 3])
        good = tf.math.is_finite(losses) & tf.math.is_finite(pixels)
        own = tf.one_hot(replica, num_replicas, dtype=tf.int64)  # [R]

        def own_row(values: tf.Tensor) -> tf.Tensor:
            # [b] -> [R, b], zero except for this replica's row, so that a sum concatenates rows.
            return own[:, tf.newaxis] * tf.cast(values, tf.int64)[tf.newaxis]

        return own_row(batch["index"]), own_row(~good), own * tf.cast(is_bad, tf.int64)

    @tf.function(autograph=False)
    def run(batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return runtime.run(check, batch)

    found = run(next(experiment.train_iterator(data_step)))
    index, bad, replicas = (runtime.all_reduce(value.numpy(), "sum") for value in found)
    return index.ravel(), bad.ravel(), replicas


def _has_finite_gradients(
    experiment: Experiment, batch: Batch, step: tf.Tensor, replica: tf.Tensor
) -> tf.Tensor:
    """Computes the gradients of a replica again, with the same random numbers."""
    if (scale := experiment.gradient_scale) is None:
        _, gradients = experiment.gradients.gradients_of(batch, step, replica)
        return tf.math.is_finite(global_norm(gradients))
    examples = {name: batch[name] for name in ("image", "target", "weight")}
    _, _, bounds = experiment.exact_gradients()(examples, step, replica, scale.exponents.value)
    return bounds[-1] == 0


def _join_microbatches(value: tf.Tensor) -> tf.Tensor:
    """[microbatches, m, ...] -> [microbatches * m, ...]"""
    return tf.reshape(value, [-1, *value.shape[2:]])
