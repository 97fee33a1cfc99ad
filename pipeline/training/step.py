"""One training step and one evaluation step, and the graphs that run several of them.

Nothing is read back from the device inside: sums travel through the loop and are returned once.
Loops are `tf.while_loop`s and not Python's: AutoGraph, which would rewrite those, rewrites the
model and all that it calls too, which was a quarter of the time to trace it (3.6 s of digits).
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

# What a stretch of training steps sums up, float64.
TRAIN_SUMS = (*SUMS, "gradient_norm", "skipped_updates", "steps")


def empty_train_sums() -> np.ndarray:
    """Sums over no step, float64 [7]."""
    return np.zeros(len(TRAIN_SUMS))


# (iterator, sums so far float64 [7], bad steps before int32, steps int32)
#   -> sums float64 [7], bad steps in a row at the end int32, and of each step when it began and how
#   long this process waited for input and for the sum of gradients, float64 [done, 3] in seconds
TrainSteps = Callable[
    [Any, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]
]
# (batch, step int64, number of the replica int32)
#   -> sums of `metrics.SUMS` float64 [4], gradient of each trainable variable
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
    """The graph that does n updates; n is a tensor, so every n is served by one trace.

    A step whose loss or gradient is not finite changes nothing and adds nothing to the sums but a
    skipped update. The graph ends early at `train.max_bad_steps` of them in a row.
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
        def goes_on(done: tf.Tensor, _: tf.Tensor, bad: tf.Tensor, __: tf.TensorArray) -> tf.Tensor:
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
        _, totals, bad, times_s = tf.while_loop(goes_on, update, (0, totals, bad, times_s))
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
    """An update in replica context: its sums, its share of the norm, and seconds it waited."""

    def train_step(
        batch: Batch, arrived_s: tf.Tensor, step: tf.Tensor, applied: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # A single thread would else do the whole step first, and read the clock after it.
        batch = _once(arrived_s, batch)
        sums, gradients = gradients_of(batch, step, runtime.replica_index())
        # Only the clock waits for the last of its gradients: where the batch is computed as a
        # whole, the first are being summed by then.
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
        # The norm is that of the sum, equal on all replicas: each reports its share of it. NaN says
        # that the update was skipped.
        share = tf.where(scale > 0, norm, np.nan) / runtime.num_replicas
        return sums, share, waited_s

    return train_step


def make_gradients(
    config: Config,
    model: keras.Model,
    loss_scale: LossScale | None,
    at_a_time: int = 1,
    *,
    xla: bool = False,
) -> Gradients:
    """The function from a replica's batch to its sums and its share of the gradient.

    The loss is summed over examples and divided by the global batch, so the sum of the shares over
    replicas is the gradient of the mean. With `optim.accumulate_steps` the batch goes through the
    model in parts, and only one part's activations are held at a time; each of them in `at_a_time`
    parts, which are computed side by side. What is dropped is drawn for each part. With `xla`, XLA
    compiles what is done to a part, and gives all of its gradients at once; without, on a CPU, it
    compiles chains of operations (`backend.fusing`), unless `train.xla` is never.
    """
    in_turn = config.optim.accumulate_steps
    seed = tf.constant([config.seed, 0x5EED], tf.int32)
    one_part = _make_one_part(config, model, loss_scale, xla=xla)

    def gradients_of(
        batch: Batch, step: tf.Tensor, replica: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        step_seed = tf.random.fold_in(tf.random.fold_in(seed, step), replica)
        size = batch["weight"].shape[0]  # None under MultiWorkerMirrored
        side_by_side = at_a_time if size is None else min(at_a_time, size // in_turn)
        parts = in_turn * side_by_side
        # No more: what XLA has compiled for other batches is to serve this one.
        batch = {name: batch[name] for name in ("image", "target", "weight")}
        if parts == 1:
            return one_part(batch, step_seed)

        def add_part(
            part: tf.Tensor, sums: tf.Tensor, gradients: list[tf.Tensor]
        ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            piece = take_part(batch, part, parts)
            more_sums, more = one_part(piece, tf.random.fold_in(step_seed, part))
            gradients = [g + m for g, m in zip(gradients, more, strict=True)]
            return part + 1, sums + more_sums, gradients

        no_gradients = [tf.zeros(v.shape) for v in model.trainable_variables]
        nothing = tf.zeros([len(SUMS)], tf.float64), no_gradients
        # TensorFlow's own choice is ten at a time, and all their activations would be held.
        _, sums, gradients = tf.while_loop(
            lambda part, *_: part < parts, add_part, (0, *nothing), parallel_iterations=side_by_side
        )
        return sums, gradients

    return gradients_of


def _make_one_part(
    config: Config, model: keras.Model, loss_scale: LossScale | None, *, xla: bool
) -> Callable[[Batch, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]:
    """The function from a part of a batch and a seed int32 [2] of dropout to sums and gradients."""
    global_batch_size = config.data.global_batch_size
    # [V], resource variables: the tape must not watch keras's wrappers.
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
        # Every replica must know of a loss that is not finite, and gradients are what is summed.
        first += tf.where(tf.math.is_finite(loss), 0.0, np.nan)
        return sum_metrics(logits, label, losses, batch["weight"]), [first, *others]

    if xla:
        return tf.function(one_part, jit_compile=True, autograph=False)
    return one_part if config.train.xla == "never" else fusing()(one_part)


def take_part(batch: Batch, part: tf.Tensor, parts: int) -> Batch:
    """Part number `part` of a batch, whose parts' sizes differ by one at most."""
    known, size = batch["weight"].shape[0], tf.shape(batch["weight"])[0]
    rows = known // parts if known is not None and known % parts == 0 else None
    start, end = part * size // parts, (part + 1) * size // parts
    return {
        name: tf.ensure_shape(value[start:end], [rows, *value.shape[1:]])
        for name, value in batch.items()
    }


def make_eval_steps(runtime: Runtime, model: keras.Model) -> EvalSteps:
    """The graph that evaluates n batches."""

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


def predict_logits(model: keras.Model, images: tf.Tensor, at_a_time: int) -> tf.Tensor:
    """Logits [b, C] of images [b, H, W, 3], in `at_a_time` parts side by side."""
    if at_a_time == 1:
        return model(images, training=False)
    size = tf.shape(images)[0]
    rows = -(-size // at_a_time)
    more = rows * at_a_time - size
    padded = tf.pad(images, [[0, more], [0, 0], [0, 0], [0, 0]])
    logits = tf.map_fn(
        lambda part: model(part, training=False),
        tf.reshape(padded, [at_a_time, rows, *images.shape[1:]]),
        fn_output_signature=tf.float32,
        parallel_iterations=at_a_time,
    )
    return tf.reshape(logits, [at_a_time * rows, -1])[:size]


def _time_after(tensors: Any) -> tf.Tensor:
    """Seconds since 1970 once these are there, float64 scalar.

    A GPU is done with what it was given in this order, and copies to the host when it is.
    """
    first, *others = tf.nest.flatten(tensors, expand_composites=True)
    with tf.control_dependencies([first, *others]):
        number = tf.identity(tf.reshape(first, [-1])[:1])
    with tf.device("CPU:0"), tf.control_dependencies([tf.identity(number)]):
        return tf.timestamp()


def _once(event: tf.Tensor, batch: Batch) -> Batch:
    """The same batch, to be had once `event` is there."""
    with tf.control_dependencies([event]):
        return {name: tf.identity(value) for name, value in batch.items()}


def _no_time_after(tensors: Any) -> tf.Tensor:
    """0: deterministic ops do not allow a look at the clock."""
    return tf.constant(0.0, tf.float64)
