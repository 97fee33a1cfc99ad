"""`train.xla`: whether XLA compiles a step's forward and backward pass."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from pipeline.config import Config
from pipeline.distribute.runtime import Batch, Runtime
from pipeline.train.step import Gradients

_TIMES = 5


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
      compiles: Whether XLA does.
      why: What was timed; None where the settings or the device decide.
    """

    compiles: bool
    why: str | None = None


def choose(
    config: Config,
    runtime: Runtime,
    num_classes: int,
    make: Callable[[bool], Gradients],
    *,
    on_gpu: bool,
) -> Choice:
    """What `train.xla` comes to on this device; every process must call it.

    Args:
      config: Of the run.
      runtime: Its processes: the slowest decides for all.
      num_classes: Length of a target.
      make: The gradients with XLA or without.
      on_gpu: Whether `auto` is to time them.
    """
    if config.train.xla != "auto" or not on_gpu:
        return Choice(config.train.xla == "always")
    own_s = [_time(config, runtime, num_classes, make(compiles)) for compiles in (False, True)]
    everyone_s = runtime.all_gather(own_s)
    plain_s, compiled_s = (max(one[i] for one in everyone_s) for i in (0, 1))
    compiles = compiled_s < plain_s
    keep = "always" if compiles else "never"
    return Choice(
        compiles,
        f"train.xla=auto: gradients of a step take {_words(compiled_s)} compiled with XLA and "
        f"{_words(plain_s)} without. Another start spares itself this with train.xla={keep}",
    )


def _time(config: Config, runtime: Runtime, num_classes: int, gradients_of: Gradients) -> float:
    """Seconds of one call, the least of a few; infinite where it cannot be compiled or held.

    The images are all zero: how long it takes does not depend on what is in them.
    """
    images, size = config.data.global_batch_size // runtime.num_replicas, config.data.image_size
    batch = {
        "image": tf.zeros([images, size, size, 3]),
        "target": tf.one_hot(tf.zeros(images, tf.int32), num_classes),
        "weight": tf.ones(images),
    }

    def on_replica(batch: Batch) -> tf.Tensor:
        _, gradients = gradients_of(batch, tf.constant(0, tf.int64), runtime.replica_index())
        return tf.linalg.global_norm(gradients)  # a number that needs all of them

    @tf.function
    def once(batch: Batch) -> tf.Tensor:
        return runtime.run(on_replica, batch)

    seconds = []
    try:
        for _ in range(1 + _TIMES):
            start_s = time.perf_counter()
            once(batch).numpy()
            seconds.append(time.perf_counter() - start_s)
    except tf.errors.OpError:
        return math.inf
    return min(seconds[1:])  # the first call compiles


def _words(seconds: float) -> str:
    return f"{seconds:.3g} s" if math.isfinite(seconds) else "more than this device can do"
