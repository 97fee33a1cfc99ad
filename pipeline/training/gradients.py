"""The gradients of a replica's batch or of a microbatch."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Config
from pipeline.model.backend import fusing
from pipeline.optim.custom_loss import cross_entropy, load_loss
from pipeline.optim.optimizer import LossScale
from pipeline.runtimes.runtime import Batch
from pipeline.training.metrics import SUMS, sum_metrics

# (batch, step int64, index of the replica int32)
#   -> sums of `metrics.SUMS` float64 [4], gradients of the trainable variables
Gradients = Callable[[Batch, tf.Tensor, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]
# (batch, dropout seed int32 [2]) -> the same
GradientsOfPart = Callable[[Batch, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]


def make_gradients(
    config: Config,
    model: keras.Model,
    loss_scale: LossScale | None,
    parallel_parts: int = 1,
    *,
    xla: bool = False,
) -> Gradients:
    """Makes the function that computes the sums and gradients of a replica's batch.

    The loss is summed over examples and divided by the global batch size. The sum of the gradients
    over all replicas is therefore the gradient of the mean loss.

    With `optim.accumulate_steps`, the batch is computed in parts, and only the activations of one
    part are in memory at a time. Each of them is again divided into `parallel_parts`, which are
    computed in parallel. Dropout uses different random numbers for each part.

    Args:
      config: The settings.
      model: The model.
      loss_scale: The loss scale of mixed_float16; None for other precisions.
      parallel_parts: Number of parts to compute in parallel.
      xla: Whether XLA compiles the computation of a part, which then returns all its gradients at
        once. If False, XLA compiles only chains of operations on a CPU (`backend.fusing`), unless
        `train.xla` is never.
    """
    sequential_parts = config.optim.accumulate_steps
    one_part = make_gradients_of_part(config, model, loss_scale, xla=xla)

    def gradients_of(
        batch: Batch, step: tf.Tensor, replica: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        size = batch["weight"].shape[0]  # None under MultiWorkerMirrored
        parallel = parallel_parts if size is None else min(parallel_parts, size // sequential_parts)
        parts = sequential_parts * parallel
        return gradients_of_parts(
            one_part, model, batch, dropout_seed(config, step, replica), parts, parallel
        )

    return gradients_of


def dropout_seed(config: Config, step: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    """The seed of dropout, int32 [2], for a part of the batch of a step."""
    seed = tf.constant([config.seed, 0x5EED], tf.int32)
    return tf.random.fold_in(tf.random.fold_in(seed, step), part)


def gradients_of_parts(
    one_part: GradientsOfPart,
    model: keras.Model,
    batch: Batch,
    seed: tf.Tensor,
    parts: int,
    parallel: int,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Computes the sums and gradients of a batch in equal parts.

    Args:
      one_part: Computes those of a part.
      model: The model.
      batch: The batch.
      seed: Seed of dropout for the batch, int32 [2].
      parts: Number of parts.
      parallel: Number of parts to compute in parallel.
    """
    # Other entries would change the signature, and XLA would compile again.
    batch = {name: batch[name] for name in ("image", "target", "weight")}
    if parts == 1:
        return one_part(batch, seed)

    def add_part(
        part: tf.Tensor, sums: tf.Tensor, gradients: list[tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        examples = take_part(batch, part, parts)
        more_sums, more = one_part(examples, tf.random.fold_in(seed, part))
        gradients = [g + m for g, m in zip(gradients, more, strict=True)]
        return part + 1, sums + more_sums, gradients

    no_gradients = [tf.zeros(v.shape) for v in model.trainable_variables]
    zeros = tf.zeros([len(SUMS)], tf.float64), no_gradients
    # The default of ten parallel iterations would keep the activations of ten parts in memory.
    _, sums, gradients = tf.while_loop(
        lambda part, *_: part < parts, add_part, (0, *zeros), parallel_iterations=parallel
    )
    return sums, gradients


def make_gradients_of_part(
    config: Config, model: keras.Model, loss_scale: LossScale | None, *, xla: bool
) -> GradientsOfPart:
    """Makes the function that maps a part of a batch and a dropout seed, int32 [2], to sums and
    gradients.
    """
    global_batch_size = config.data.global_batch_size
    # TensorFlow's variables [V], because the tape does not accept Keras's wrappers.
    variables = [v.value for v in model.trainable_variables]
    name = config.optim.loss
    loss_of = cross_entropy if name is None else load_loss(name, model.num_classes)

    def one_part(batch: Batch, dropout_seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            logits = model(batch["image"], dropout_seed=dropout_seed, training=True)
            losses = loss_of(batch["target"], logits)  # [b]
            loss = tf.reduce_sum(losses * batch["weight"]) / global_batch_size
            if loss_scale is not None:
                loss *= loss_scale.value.value
        label = tf.argmax(batch["target"], axis=1, output_type=tf.int32)
        first, *others = tape.gradient(loss, variables)
        # A non-finite loss makes a gradient NaN. Gradients are summed, so all replicas detect it.
        first += tf.where(tf.math.is_finite(loss), 0.0, np.nan)
        return sum_metrics(logits, label, losses, batch["weight"]), [first, *others]

    if xla:
        return tf.function(one_part, jit_compile=True, autograph=False)
    return one_part if config.train.xla == "never" else fusing()(one_part)


def take_part(batch: Batch, part: tf.Tensor, parts: int) -> Batch:
    """Returns part number `part` of a batch. The sizes of the parts differ by at most one."""
    known, size = batch["weight"].shape[0], tf.shape(batch["weight"])[0]
    rows = known // parts if known is not None and known % parts == 0 else None
    start, end = part * size // parts, (part + 1) * size // parts
    return {
        name: tf.ensure_shape(value[start:end], [rows, *value.shape[1:]])
        for name, value in batch.items()
    }
