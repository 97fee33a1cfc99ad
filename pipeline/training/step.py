"""The training step and the evaluation step, and the graphs that run several of them.

The graphs read nothing back from the device: the sums are loop variables and are returned once at
the end. Loops use `tf.while_loop` instead of Python loops, which need AutoGraph. AutoGraph would
also convert the model and everything it calls, which took a quarter of the tracing time (3.6 s with
the recipe digits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Config
from pipeline.model.backend import fusing
from pipeline.optim.custom_loss import cross_entropy, load_loss
from pipeline.optim.optimizer import AdamW, LossScale, clip_scale, global_norm
from pipeline.optim.schedule import Schedule
from pipeline.runtimes.runtime import Batch, Runtime
from pipeline.training.metrics import SUMS, sum_metrics

# The sums over training steps, float64.
TRAIN_SUMS = (*SUMS, "gradient_norm", "skipped_updates", "steps")


def empty_train_sums() -> np.ndarray:
    """Zeros of the shape of the training sums, float64 [7]."""
    return np.zeros(len(TRAIN_SUMS))


# (iterator, sums so far float64 [7], consecutive bad steps so far int32, number of steps int32)
#   -> sums float64 [7], consecutive bad steps at the end int32, and for each step its start time
#   and the times of waiting for input and for the sum of gradients, float64 [steps, 3] in seconds
TrainSteps = Callable[
    [Any, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]
]
# (batch, step int64, index of the replica int32)
#   -> sums of `metrics.SUMS` float64 [4], gradients of the trainable variables
Gradients = Callable[[Batch, tf.Tensor, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]
# (iterator, sums so far float64 [4], steps int32 scalar) -> sums float64 [4]
EvalSteps = Callable[[Any, tf.Tensor, tf.Tensor], tf.Tensor]


def make_train_steps(
    config: Config,
    runtime: Runtime,
    gradients_of: Gradients,
    optimizer: AdamW,
    schedule: Schedule,
    loss_scale: LossScale | None,
) -> TrainSteps:
    """Makes the graph of n training steps. n is a tensor, so one trace serves all values.

    A step with a non-finite loss or gradient is skipped: it changes no weights, and adds only to
    the sum of skipped updates. The graph stops after `train.max_bad_steps` consecutive ones.
    """
    max_bad_steps = config.train.max_bad_steps
    time_after = _no_time_after if config.train.deterministic else _time_after
    train_step = _make_train_step(
        config, runtime, gradients_of, optimizer, schedule, loss_scale, time_after
    )

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
            step, applied = optimizer.iterations.value, optimizer.applied_updates.value
            sums, norm, reduce_wait_s = runtime.run(train_step, batch, arrived_s, step, applied)
            times_s = times_s.write(done, tf.stack([start_s, input_wait_s, reduce_wait_s]))
            finite = tf.math.is_finite(norm)
            optimizer.iterations.assign_add(1)
            optimizer.applied_updates.assign_add(tf.cast(finite, tf.int64))
            if loss_scale is not None:
                loss_scale.adjust(finite)
            sums = tf.where(finite, sums, tf.zeros_like(sums))
            counts = [tf.where(finite, norm, 0.0), tf.cast(~finite, tf.float64), 1.0]
            totals += tf.concat([sums, tf.stack(counts)], axis=0)
            return done + 1, totals, tf.where(finite, 0, bad + 1), times_s

        times_s = tf.TensorArray(tf.float64, size=0, dynamic_size=True, element_shape=[3])
        _, totals, bad, times_s = tf.while_loop(continues, update, (0, totals, bad, times_s))
        return totals, bad, times_s.stack()

    return train_steps


def _make_train_step(
    config: Config,
    runtime: Runtime,
    gradients_of: Gradients,
    optimizer: AdamW,
    schedule: Schedule,
    loss_scale: LossScale | None,
    time_after: Callable[[Any], tf.Tensor],
) -> Callable[[Batch, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Makes the training step in replica context.

    It returns the sums of the replica, its share of the gradient norm, and the time it waited for
    the sum of gradients in seconds.
    """

    def train_step(
        batch: Batch, arrived_s: tf.Tensor, step: tf.Tensor, applied: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Without this dependency, a single thread could run the whole step before it reads the
        # clock.
        batch = _after(arrived_s, batch)
        sums, gradients = gradients_of(batch, step, runtime.replica_index())
        # Only the clock waits for the last gradient. If the batch is computed as a whole, the first
        # gradients are already being summed by then.
        ready_s = time_after(gradients)
        gradients = runtime.sum_gradients(gradients)
        waited_s = (time_after(gradients) - ready_s) / runtime.local_replicas
        loss_factor = 1.0 if loss_scale is None else 1.0 / loss_scale.value.value
        norm = global_norm(gradients) * tf.cast(loss_factor, tf.float64)
        scale = clip_scale(norm, config.optim.clip_norm)
        optimizer.apply(
            gradients,
            learning_rate=schedule(step),
            applied=applied,
            update=runtime.update,
            scale=scale * loss_factor,
        )
        # All replicas have the norm of the sum. Each returns a share of it, because `run` sums over
        # replicas. NaN means that the update was skipped.
        share = tf.where(scale > 0, norm, np.nan) / runtime.num_replicas
        return sums, share, waited_s

    return train_step


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
    seed = tf.constant([config.seed, 0x5EED], tf.int32)
    one_part = _make_one_part(config, model, loss_scale, xla=xla)

    def gradients_of(
        batch: Batch, step: tf.Tensor, replica: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        step_seed = tf.random.fold_in(tf.random.fold_in(seed, step), replica)
        size = batch["weight"].shape[0]  # None under MultiWorkerMirrored
        parallel = parallel_parts if size is None else min(parallel_parts, size // sequential_parts)
        parts = sequential_parts * parallel
        # Other entries would change the signature, and XLA would compile again.
        batch = {name: batch[name] for name in ("image", "target", "weight")}
        if parts == 1:
            return one_part(batch, step_seed)

        def add_part(
            part: tf.Tensor, sums: tf.Tensor, gradients: list[tf.Tensor]
        ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            examples = take_part(batch, part, parts)
            more_sums, more = one_part(examples, tf.random.fold_in(step_seed, part))
            gradients = [g + m for g, m in zip(gradients, more, strict=True)]
            return part + 1, sums + more_sums, gradients

        no_gradients = [tf.zeros(v.shape) for v in model.trainable_variables]
        zeros = tf.zeros([len(SUMS)], tf.float64), no_gradients
        # The default of ten parallel iterations would keep the activations of ten parts in memory.
        _, sums, gradients = tf.while_loop(
            lambda part, *_: part < parts, add_part, (0, *zeros), parallel_iterations=parallel
        )
        return sums, gradients

    return gradients_of


def _make_one_part(
    config: Config, model: keras.Model, loss_scale: LossScale | None, *, xla: bool
) -> Callable[[Batch, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]:
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


def make_eval_steps(runtime: Runtime, model: keras.Model) -> EvalSteps:
    """Makes the graph that evaluates n batches."""

    def eval_step(batch: Batch) -> tf.Tensor:
        logits = predict_logits(model, batch["image"], runtime.parallel_parts)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
        return sum_metrics(logits, batch["label"], losses, batch["weight"])

    @tf.function(autograph=False)
    def eval_steps(iterator: Any, totals: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
        def add_batch(done: tf.Tensor, totals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return done + 1, totals + runtime.run(eval_step, iterator.get_next())

        _, totals = tf.while_loop(lambda done, _: done < steps, add_batch, (0, totals))
        return totals

    return eval_steps


def predict_logits(model: keras.Model, images: tf.Tensor, parallel_parts: int) -> tf.Tensor:
    """Computes logits [b, C] of images [b, H, W, 3] in `parallel_parts` parallel parts."""
    if parallel_parts == 1:
        return model(images, training=False)
    size = tf.shape(images)[0]
    rows = -(-size // parallel_parts)
    padding = rows * parallel_parts - size
    padded = tf.pad(images, [[0, padding], [0, 0], [0, 0], [0, 0]])
    logits = tf.map_fn(
        lambda part: model(part, training=False),
        tf.reshape(padded, [parallel_parts, rows, *images.shape[1:]]),
        fn_output_signature=tf.float32,
        parallel_iterations=parallel_parts,
    )
    return tf.reshape(logits, [parallel_parts * rows, -1])[:size]


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
