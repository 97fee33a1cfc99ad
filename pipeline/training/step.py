"""The training step, and the graph that runs several of them.

The graph reads nothing back from the device: the sums are loop variables and are returned once at
the end. Loops use `tf.while_loop` instead of Python loops, which need AutoGraph. AutoGraph would
also convert the model and everything it calls, which took a quarter of the tracing time (3.6 s with
the recipe digits).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.config import Config
from pipeline.optim.optimizer import AdamW, LossScale, clip_scale, global_norm
from pipeline.optim.schedule import Schedule
from pipeline.runtimes.runtime import Batch, Runtime
from pipeline.training.gradients import Gradients
from pipeline.training.metrics import SUMS

# The sums over training steps, float64.
TRAIN_SUMS = (*SUMS, "gradient_norm", "skipped_updates", "steps")


def empty_train_sums() -> np.ndarray:
    """Zeros of the shape of the training sums, float64 [7]."""
    return np.zeros(len(TRAIN_SUMS))


# (batch, its time of arrival float64 in seconds) -> sums of `metrics.SUMS` float64 [4], of this
#   process or, with exact sums of gradients, of all; gradient norm float64, NaN if the update was
#   skipped; and the time it waited for the sum of gradients, float64 in seconds. It updates the
#   weights. Call it outside replica context.
Step = Callable[[Batch, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]
# (iterator, sums so far float64 [7], consecutive bad steps so far int32, number of steps int32)
#   -> sums float64 [7], consecutive bad steps at the end int32, and for each step its start time
#   and the times of waiting for input and for the sum of gradients, float64 [steps, 3] in seconds
TrainSteps = Callable[
    [Any, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]
]
# (gradients summed over all replicas, number of steps before this one, number of updates before
#   it, whether to update, bool) -> gradient norm float64; NaN if it is not finite, and the update
#   was skipped. It is available when all variables are updated. Call it in replica context.
Update = Callable[[Sequence[tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class CompletedSteps:
    """What the completed steps of a call have produced, in variables.

    A call that an error interrupts returns nothing. These variables and the optimizer's number of
    steps then describe the steps that it had completed. Create it inside the runtime's scope.

    Attributes:
      sums: Sums of `TRAIN_SUMS`, float64 [7], including those passed to the call.
      bad_steps: Number of consecutive bad steps at the end, int32.
    """

    def __init__(self) -> None:
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.sums = tf.Variable(empty_train_sums(), trainable=False, aggregation=first)
        self.bad_steps = tf.Variable(0, trainable=False, aggregation=first)


def make_train_steps(
    config: Config,
    step: Step,
    optimizer: AdamW,
    loss_scale: LossScale | None,
    completed: CompletedSteps,
) -> TrainSteps:
    """Makes the graph of n training steps. n is a tensor, so one trace serves all values.

    A step with a non-finite loss or gradient is skipped: it changes no weights, and adds only to
    the sum of skipped updates. The graph stops after `train.max_bad_steps` consecutive ones.

    An error, such as a lost worker, can interrupt the graph anywhere. A step is then complete or
    has changed nothing: all its reductions precede its first change of a variable, and the next
    step begins after the last one.
    """
    max_bad_steps = config.train.max_bad_steps
    time_after = _no_time_after if config.train.deterministic else _time_after

    @tf.function(autograph=False)
    def train_steps(
        iterator: Any, totals: tf.Tensor, bad: tf.Tensor, steps: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        def continues(
            done: tf.Tensor, _: tf.Tensor, bad: tf.Tensor, __: tf.TensorArray
        ) -> tf.Tensor:
            return (done < steps) & (bad < max_bad_steps)

        def update(
            done: tf.Tensor, totals: tf.Tensor, bad: tf.Tensor, times_s: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.TensorArray]:
            start_s = time_after([totals])
            with tf.control_dependencies([start_s]):
                batch = iterator.get_next()
            arrived_s = time_after(batch)
            input_wait_s = arrived_s - start_s
            sums, norm, reduce_wait_s = step(batch, arrived_s)
            finite = tf.math.is_finite(norm)
            if loss_scale is not None:
                loss_scale.adjust(finite)
            sums = tf.where(finite, sums, tf.zeros_like(sums))
            counts = [tf.where(finite, norm, 0.0), tf.cast(~finite, tf.float64), 1.0]
            totals += tf.concat([sums, tf.stack(counts)], axis=0)
            bad = tf.where(finite, 0, bad + 1)
            with tf.control_dependencies([totals, bad]):
                records = [
                    optimizer.iterations.value.assign_add(1, read_value=False),
                    optimizer.applied_updates.value.assign_add(
                        tf.cast(finite, tf.int64), read_value=False
                    ),
                    completed.sums.assign(totals, read_value=False),
                    completed.bad_steps.assign(bad, read_value=False),
                ]
            with tf.control_dependencies(records):
                times_s = times_s.write(done, tf.stack([start_s, input_wait_s, reduce_wait_s]))
                return done + 1, tf.identity(totals), tf.identity(bad), times_s

        times_s = tf.TensorArray(tf.float64, size=0, dynamic_size=True, element_shape=[3])
        _, totals, bad, times_s = tf.while_loop(continues, update, (0, totals, bad, times_s))
        return totals, bad, times_s.stack()

    return train_steps


def make_step(runtime: Runtime, gradients_of: Gradients, optimizer: AdamW, update: Update) -> Step:
    """Makes the training step that sums gradients in floating point.

    Args:
      runtime: The runtime.
      gradients_of: Computes the sums and gradients of a replica's batch.
      optimizer: Counts the steps and updates.
      update: From `make_update`.
    """

    def on_replica(
        batch: Batch, arrived_s: tf.Tensor, step: tf.Tensor, applied: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Without this dependency, a single thread could run the whole step before it reads the
        # clock.
        batch = _after(arrived_s, batch)
        sums, gradients = gradients_of(batch, step, runtime.replica_index())
        # Only the clock waits for the last gradient. If the batch is computed as a whole, the first
        # gradients are already being summed by then.
        ready_s = _time_after(gradients)
        gradients = runtime.sum_gradients(gradients)
        waited_s = (_time_after(gradients) - ready_s) / runtime.local_replicas
        norm = update(gradients, step, applied, tf.constant(True))
        return sums, on_first_replica(runtime, norm), waited_s

    def one_step(batch: Batch, arrived_s: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        step, applied = optimizer.iterations.value, optimizer.applied_updates.value
        return runtime.run(on_replica, batch, arrived_s, step, applied)

    return one_step


def make_update(
    config: Config,
    runtime: Runtime,
    optimizer: AdamW,
    schedule: Schedule,
    loss_scale: LossScale | None,
) -> Update:
    """Makes the function that clips the summed gradients and updates the weights."""

    def update(
        gradients: Sequence[tf.Tensor], step: tf.Tensor, applied: tf.Tensor, enabled: tf.Tensor
    ) -> tf.Tensor:
        # The norm is computed from all gradients, and each update uses the norm. So no variable
        # changes before the last gradient is reduced.
        loss_factor = 1.0 if loss_scale is None else 1.0 / loss_scale.value.value
        norm = global_norm(gradients) * tf.cast(loss_factor, tf.float64)
        scale = clip_scale(norm, config.optim.clip_norm)
        updates = optimizer.apply(
            gradients,
            learning_rate=schedule(step),
            applied=applied,
            update=runtime.update,
            scale=tf.where(enabled, scale, 0.0) * loss_factor,
        )
        with tf.control_dependencies(updates if tf.inside_function() else []):
            return tf.where(scale > 0, norm, np.nan)

    return update


def on_first_replica(runtime: Runtime, value: tf.Tensor) -> tf.Tensor:
    """`value` on the first replica of this process, and zeros on the others.

    `Runtime.run` sums over the replicas, which gives back the value.
    """
    is_first = runtime.replica_index() % runtime.local_replicas == 0
    return tf.where(is_first, value, tf.zeros_like(value))


def _time_after(tensors: Any) -> tf.Tensor:
    """Unix time in seconds after these tensors are computed, float64 scalar.

    A GPU runs its operations in the order of submission, so copying a number to the host waits for
    all earlier operations.
    """
    first, *others = tf.nest.flatten(tensors, expand_composites=True)
    with tf.control_dependencies([first, *others]):
        number = tf.identity(tf.reshape(first, [-1])[:1])
    with tf.device("CPU:0"), tf.control_dependencies([tf.identity(number)]):
        return tf.timestamp()


def _after(event: tf.Tensor, batch: Batch) -> Batch:
    """Returns the same batch, available only after `event` is computed."""
    with tf.control_dependencies([event]):
        return {name: tf.identity(value) for name, value in batch.items()}


def _no_time_after(tensors: Any) -> tf.Tensor:
    """Returns 0 instead of a time, because deterministic ops do not allow reading the clock."""
    return tf.constant(0.0, tf.float64)
