"""The training step with microbatches: the same sums of gradients on any number of workers.

Three things make the result of a step independent of the number of workers. Each microbatch is
computed by itself, with the same shapes and so the same kernels. Dropout depends on the step and
the number of the microbatch. The gradients of microbatches are summed exactly (`fixed_point`).
Everything after the sum is computed in the same way by all replicas.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Config
from pipeline.data.shard import first_piece
from pipeline.model.backend import fusing
from pipeline.optim.optimizer import AdamW, LossScale
from pipeline.runtimes.runtime import Batch, Runtime
from pipeline.training.fixed_point import (
    GradientScale,
    add_integers,
    contribution,
    is_exact,
    to_gradients,
)
from pipeline.training.gradients import dropout_seed, gradients_of_parts, make_gradients_of_part
from pipeline.training.metrics import SUMS
from pipeline.training.step import Step, Update, on_first_replica

# (batch of microbatches [turns, m, ...], step int64, index of the replica int32, exponents
#   int32 [T]) -> sums of `metrics.SUMS` float64 [4], T sums of gradients as integers, and their
#   bounds int64 [T + 1], from `contribution`
ExactGradients = Callable[
    [Batch, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]
]


def make_exact_gradients(
    config: Config,
    model: keras.Model,
    loss_scale: LossScale | None,
    runtime: Runtime,
) -> ExactGradients:
    """Makes the function that computes the microbatches of a replica.

    Up to `runtime.parallel_parts` microbatches are computed in parallel. Each of them is computed
    in `optim.accumulate_steps` parts.
    """
    microbatches = config.microbatches or 1
    one_part = make_gradients_of_part(config, model, loss_scale, xla=config.train.xla == "always")
    add = add_integers if config.train.xla == "never" else fusing()(add_integers)
    variables = model.trainable_variables
    # On a GPU, TensorFlow keeps int32 tensors in the memory of the host.
    dtype = tf.int64 if tf.config.list_logical_devices("GPU") else tf.int32

    def gradients_of(
        batch: Batch, step: tf.Tensor, replica: tf.Tensor, exponents: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        replicas = runtime.replica_count()
        first, end = (first_piece(r, microbatches, replicas) for r in (replica, replica + 1))

        def add_microbatch(
            number: tf.Tensor, sums: tf.Tensor, totals: list[tf.Tensor], bounds: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor], tf.Tensor]:
            examples = {
                name: tf.ensure_shape(value[number - first], value.shape[1:])
                for name, value in batch.items()
            }
            parts = config.optim.accumulate_steps
            seed = dropout_seed(config, step, number)
            more, gradients = gradients_of_parts(one_part, model, examples, seed, parts, 1)
            totals = add(totals, gradients, exponents)
            return number + 1, sums + more, totals, bounds + contribution(gradients, exponents)

        zeros = (
            tf.zeros([len(SUMS)], tf.float64),
            [tf.zeros(v.shape, dtype) for v in variables],
            tf.zeros([len(variables) + 1], tf.int64),
        )
        _, sums, totals, bounds = tf.while_loop(
            lambda number, *_: number < end,
            add_microbatch,
            (first, *zeros),
            parallel_iterations=runtime.parallel_parts,
        )
        return sums, totals, bounds

    return gradients_of


def make_exact_step(
    runtime: Runtime,
    gradients_of: ExactGradients,
    optimizer: AdamW,
    scale: GradientScale,
    update: Update,
) -> Step:
    """Makes the training step that sums gradients exactly.

    If the exponents do not suit the gradients, it computes the step again with others.
    """

    def on_replica(
        batch: Batch, step: tf.Tensor, applied: tf.Tensor, exponents: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        sums, totals, bounds = gradients_of(batch, step, runtime.replica_index(), exponents)
        totals = runtime.sum_gradients(totals)
        (bounds,) = runtime.sum_gradients([bounds], "bounds")
        # Their sum is exact, too (`metrics`). All replicas have it, so none is needed to know it.
        (sums,) = runtime.sum_gradients([sums], "metrics")
        finite = bounds[-1] == 0
        with tf.control_dependencies([sums]):
            enabled = finite & is_exact(bounds, exponents)
        norm = update(to_gradients(totals, exponents), step, applied, enabled)
        norm = tf.where(finite, norm, np.nan)
        return tuple(on_first_replica(runtime, value) for value in (sums, norm, bounds))

    def one_step(batch: Batch, arrived_s: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Other entries would change the signature, and XLA would compile again.
        batch = {name: batch[name] for name in ("image", "target", "weight")}
        step, applied = optimizer.iterations.value, optimizer.applied_updates.value

        def attempt(
            _: tf.Tensor, __: tf.Tensor, ___: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            exponents = scale.exponents.value
            sums, norm, bounds = runtime.run(on_replica, batch, step, applied, exponents)
            return scale.adjust(bounds), sums, norm

        start = tf.constant(True), tf.zeros([len(SUMS)], tf.float64), tf.zeros([], tf.float64)
        _, sums, norm = tf.while_loop(lambda again, *_: again, attempt, start)
        return sums, norm, tf.zeros([], tf.float64)

    return one_step
