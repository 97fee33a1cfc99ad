"""Statistics for the rows of metrics: norms of weights, memory use and FLOP/s."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import tensorflow as tf

from pipeline.model.architecture import architecture
from pipeline.model.flops import training_flops_per_image
from pipeline.training.experiment import Experiment

# Sides of the matrices that are multiplied to measure the peak. The first product that takes long
# enough to saturate the device is the last: larger ones would only delay a run on a few cores.
_PEAK_SIDES = (1024, 2048, 4096, 8192)
_LONG_ENOUGH_S = 0.01
_PEAK_REPEATS = 5


class StepStatistics:
    """Statistics that the chief reads at logging steps, without communication.

    Args:
      experiment: The experiment.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        config = experiment.config
        # Nothing is known of the arithmetic of other models.
        self._flops = (
            training_flops_per_image(
                architecture(config.model),
                config.data.image_size,
                len(experiment.source.classes),
                [variable.path for variable in experiment.model.trainable_variables],
            )
            if config.model.builder is None
            else None
        )

    def read(self, examples_per_second: float) -> dict[str, float]:
        """Returns weight norms, memory in bytes, and FLOP/s at this speed, by column of metrics."""
        weights, distance = self._norms()
        values = {"weight_norm": weights, "host_memory_bytes": _resident_bytes()}
        if self._experiment.optimizer.averages:
            values["ema_distance"] = distance / max(weights, 1e-30)
        if self._flops is None:
            return values | self._device_memory()
        values["model_flops_per_second"] = self._flops * examples_per_second
        if self._peak is not None:
            values["peak_fraction"] = values["model_flops_per_second"] / (
                self._peak * self._experiment.runtime.num_replicas
            )
        return values | self._device_memory()

    def _norms(self) -> tuple[float, float]:
        """Global norm of the weights, and of their difference to the averages.

        Eager execution is faster here than a graph: tracing takes 0.2 s for a ViT with 9 blocks,
        which is more than a graph saves in 50 rows.
        """
        model, averages = self._experiment.model, self._experiment.optimizer.averages
        return (
            _norm(v.value for v in model.variables),
            _norm(
                v.value - averages[v.path].value
                for v in model.trainable_variables
                if v.path in averages
            ),
        )

    @cached_property
    def _peak(self) -> float | None:
        """Peak FLOP/s of a replica, from `monitor.peak_tflops` or measured; None if unknown."""
        given = self._experiment.config.monitor.peak_tflops
        if given is not None:
            return given * 1e12
        parts = self._experiment.runtime.parallel_parts
        return measure_peak(self._experiment.model.compute_dtype, parts)

    def _device_memory(self) -> dict[str, float]:
        gpus = tf.config.list_logical_devices("GPU")
        if not gpus:
            return {}
        used = [tf.config.experimental.get_memory_info(gpu.name.removeprefix("/device:"))
                for gpu in gpus]  # fmt: skip
        return {"device_memory_bytes": float(max(one["peak"] for one in used))}


def _norm(tensors: Iterable[tf.Tensor]) -> float:
    """Global norm. Keeps only one tensor in memory at a time."""
    return math.sqrt(2 * sum(tf.nn.l2_loss(tensor) for tensor in tensors))


def measure_peak(dtype: str, parallel_products: int = 1) -> float | None:
    """Measures the FLOP/s of the default device with products of large matrices; best of five.

    Args:
      dtype: Dtype of the matrices.
      parallel_products: Number of parallel products, if one product uses only one core.

    Returns:
      FLOP/s, or None if there is too little memory.
    """

    @tf.function(autograph=False)
    def multiply(matrices: list[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([tf.reduce_sum(tf.matmul(matrix, matrix)) for matrix in matrices])

    flops_per_second = None
    for side in _PEAK_SIDES:
        seconds = []
        try:
            matrices = [tf.ones([side, side], dtype) for _ in range(parallel_products)]
            for _ in range(_PEAK_REPEATS + 1):
                start_s = time.perf_counter()
                multiply(matrices).numpy()
                seconds.append(time.perf_counter() - start_s)
        except tf.errors.ResourceExhaustedError:
            break
        best_s = min(seconds[1:])  # the first call compiles
        flops_per_second = parallel_products * 2.0 * side**3 / best_s
        if best_s >= _LONG_ENOUGH_S:
            break
    return flops_per_second


def _resident_bytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
