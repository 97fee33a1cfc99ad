"""`train.xla`: whether XLA compiles a step's forward and backward pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from pipeline.config import Config
from pipeline.errors import cause
from pipeline.runtimes.runtime import Batch, Runtime
from pipeline.training.step import Gradients

_TIMES = 5
# Of the other's time; between equals no program is to be another than the last time.
_FASTER = 0.97


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
      gradients_of: To train with; compiled already where it was timed.
      why: What was timed; None where settings and device decide.
    """

    gradients_of: Gradients
    why: str | None = None


def choose(
    config: Config,
    runtime: Runtime,
    num_classes: int,
    make: Callable[[bool], Gradients],
    *,
    on_gpu: bool,
) -> Choice:
    """What `train.xla` comes to on this device.

    `auto` is the whole of it by XLA where that is faster, on one GPU. Not with several replicas:
    what XLA compiles gives all gradients at its end, when nothing is left to compute while they are
    summed. Nor where the same bits are asked for, which no clock may decide.

    Args:
      config: Of the run.
      runtime: Of this process.
      num_classes: Length of a target.
      make: The gradients with XLA or without.
      on_gpu: Whether it computes on one.
    """
    several = runtime.num_replicas > 1
    if config.train.xla != "auto" or config.train.deterministic or several or not on_gpu:
        return Choice(make(config.train.xla == "always"))
    plain, compiled = make(False), make(True)
    plain_s = _time(config, runtime, num_classes, plain)
    try:
        compiled_s = _time(config, runtime, num_classes, compiled)
    except tf.errors.OpError as error:
        why = f"train.xla=auto: not with XLA, which fails here: {cause(error.message)}"
        return Choice(plain, why)
    faster, keep = (compiled, "always") if compiled_s < _FASTER * plain_s else (plain, "never")
    return Choice(
        faster,
        f"train.xla=auto: a step's gradients take {compiled_s:.3g} s compiled with XLA and "
        f"{plain_s:.3g} s without. With train.xla={keep} a start does not try",
    )


def _time(config: Config, runtime: Runtime, num_classes: int, gradients_of: Gradients) -> float:
    """Seconds of one call, the least of a few.

    The images are all zero: how long it takes does not depend on what is in them.
    """
    images, size = config.data.global_batch_size, config.data.image_size
    batch = {
        "image": tf.zeros([images, size, size, 3]),
        "target": tf.one_hot(tf.zeros(images, tf.int32), num_classes),
        "weight": tf.ones(images),
    }

    def on_replica(batch: Batch) -> tf.Tensor:
        _, gradients = gradients_of(batch, tf.constant(0, tf.int64), runtime.replica_index())
        return tf.linalg.global_norm(gradients)  # a number that needs all of them

    @tf.function(autograph=False)
    def once(batch: Batch) -> tf.Tensor:
        return runtime.run(on_replica, batch)

    seconds = []
    for _ in range(1 + _TIMES):
        start_s = time.perf_counter()
        once(batch).numpy()
        seconds.append(time.perf_counter() - start_s)
    return min(seconds[1:])  # the first call compiles
