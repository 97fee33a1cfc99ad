"""`train.xla`: whether XLA compiles a step's forward and backward pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from pipeline.config import Config
from pipeline.errors import cause
from pipeline.runtimes.runtime import Batch, Runtime
from pipeline.training.gradients import Gradients

_REPEATS = 5
# XLA must be faster by this factor, so that equal speeds do not lead to random choices.
_FASTER = 0.97


class GradientsChoice(NamedTuple):
    """The chosen function for gradients.

    Attributes:
      gradients_of: The function. If it was timed, it is compiled already.
      reason: The measured times; None if settings and device determine the choice.
    """

    gradients_of: Gradients
    reason: str | None = None


def choose_gradients(
    config: Config,
    runtime: Runtime,
    num_classes: int,
    make: Callable[[bool], Gradients],
    *,
    on_gpu: bool,
) -> GradientsChoice:
    """Decides whether XLA compiles the computation of gradients.

    With `train.xla=auto`, XLA is used on a single GPU if it is faster. It is not used with several
    replicas, because an XLA program returns all gradients at its end, and then no computation is
    left to overlap with their reduction. It is not used with `train.deterministic`, because a
    measured time must not affect the results.

    Args:
      config: The settings.
      runtime: The runtime.
      num_classes: Number of classes.
      make: Makes the function for gradients, with XLA or without.
      on_gpu: Whether this process trains on a GPU.
    """
    several = runtime.num_replicas > 1
    if config.train.xla != "auto" or config.microbatches is not None or several or not on_gpu:
        return GradientsChoice(make(config.train.xla == "always"))
    plain, compiled = make(False), make(True)
    plain_s = _time(config, runtime, num_classes, plain)
    try:
        compiled_s = _time(config, runtime, num_classes, compiled)
    except tf.errors.OpError as error:
        reason = f"train.xla=auto: XLA is not used, because it fails: {cause(error.message)}"
        return GradientsChoice(plain, reason)
    faster, keep = (compiled, "always") if compiled_s < _FASTER * plain_s else (plain, "never")
    return GradientsChoice(
        faster,
        f"train.xla=auto: the gradients of a step take {compiled_s:.3g} s with XLA and "
        f"{plain_s:.3g} s without. Set train.xla={keep} to skip this measurement",
    )


def _time(config: Config, runtime: Runtime, num_classes: int, gradients_of: Gradients) -> float:
    """Shortest duration of several calls, in seconds.

    The images are zero, because the duration does not depend on their content.
    """
    images, size = config.data.global_batch_size, config.data.image_size
    batch = {
        "image": tf.zeros([images, size, size, 3]),
        "target": tf.one_hot(tf.zeros(images, tf.int32), num_classes),
        "weight": tf.ones(images),
    }

    def on_replica(batch: Batch) -> tf.Tensor:
        _, gradients = gradients_of(batch, tf.constant(0, tf.int64), runtime.replica_index())
        return tf.linalg.global_norm(gradients)  # depends on all gradients

    @tf.function(autograph=False)
    def once(batch: Batch) -> tf.Tensor:
        return runtime.run(on_replica, batch)

    seconds = []
    for _ in range(1 + _REPEATS):
        start_s = time.perf_counter()
        once(batch).numpy()
        seconds.append(time.perf_counter() - start_s)
    return min(seconds[1:])  # the first call compiles
