"""Which replicas and which examples made a step's gradient not finite."""

from __future__ import annotations

from socket import gethostname

import numpy as np
import tensorflow as tf

from pipeline.optim.optimizer import global_norm
from pipeline.runtimes.runtime import Batch
from pipeline.training.experiment import Experiment

_LISTED = 5


def describe_bad_step(experiment: Experiment, step: int, data_step: int) -> str:
    """Computes a step again, without its update, and says what was wrong with it.

    The weights must be those that the step met: a step that is skipped leaves them so. All
    processes must call it.

    Args:
      step: The number of the update, from 0.
      data_step: Which step's data it took, which is later where data were passed over.

    Returns:
      For example "on rank 1 (host7): the loss of train/cat/7.jpg is not finite".
    """
    index, bad, replicas = _compute(experiment, step, data_step)
    runtime = experiment.runtime
    hosts = runtime.all_gather(gethostname())
    per_process = runtime.local_replicas
    ranks = sorted({int(replica) // per_process for replica in np.flatnonzero(replicas)})
    where = ", ".join(f"rank {rank} ({hosts[rank]})" for rank in ranks) or "no rank alone"
    split = experiment.source.splits["train"]
    if bad.any():
        examples, what = index[bad > 0], "the loss is not finite for"
    else:
        pieces = index.reshape(runtime.num_replicas, -1)
        examples = pieces[replicas > 0].ravel() if replicas.any() else index
        what = "each loss is finite and their gradient is not, over"
    names = ", ".join(split.name(int(example)) for example in examples[:_LISTED])
    more = f" and {len(examples) - _LISTED} more" if len(examples) > _LISTED else ""
    return f"on {where}: {what} {names}{more}"


def _compute(
    experiment: Experiment, step: int, data_step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples [B] of the global batch; which losses [B] and replicas [R] are bad, 0 or 1."""
    runtime, model = experiment.runtime, experiment.model
    gradients_of = experiment.gradients.gradients_of  # which draw the same again
    pieces = runtime.num_replicas

    def look(batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        replica = runtime.replica_index()
        _, gradients = gradients_of(batch, tf.constant(step, tf.int64), replica)
        logits = model(batch["image"], training=False)
        losses = tf.nn.softmax_cross_entropy_with_logits(batch["target"], logits)
        pixels = tf.reduce_sum(tf.cast(batch["image"], tf.float32), axis=[1, 2, 3])
        good = tf.math.is_finite(losses) & tf.math.is_finite(pixels)
        mine = tf.one_hot(replica, pieces, dtype=tf.int64)  # [R]

        def in_place(values: tf.Tensor) -> tf.Tensor:
            # [b] -> [R, b], zero but for this replica's row: summed, each has its place.
            return mine[:, tf.newaxis] * tf.cast(values, tf.int64)[tf.newaxis]

        bad_here = tf.cast(~tf.math.is_finite(global_norm(gradients)), tf.int64)
        return in_place(batch["index"]), in_place(~good), mine * bad_here

    @tf.function(autograph=False)
    def run(batch: Batch) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return runtime.run(look, batch)

    found = run(next(experiment.train_iterator(data_step)))
    index, bad, replicas = (runtime.all_reduce(value.numpy(), "sum") for value in found)
    return index.ravel(), bad.ravel(), replicas
