"""Several processes with one device each, connected by Horovod.

Only the primitives of `horovod.tensorflow` are used. Under Keras 3, the optimizer of
`horovod.tensorflow.keras` trains without an error but does not average gradients (horovod issue
4290).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from pipeline.errors import PeerLost, SettingsError
from pipeline.runtimes.single import SingleRuntime

# Errors of Horovod's operations after a process has exited: the first in eager calls, the others in
# a tf.function.
_LOST = ("Horovod has been shut down", "HorovodInternalError", "gloo/transport/")

# Horovod 0.28.1 cannot sum bfloat16.
_WIRE = {"none": None, "float16": tf.float16}


# In each cycle, Horovod's thread wakes up and asks the other ranks which tensors are ready. If it
# shares the cores with training, the default of 1 ms costs a tenth of the throughput
# (docs/performance.md, "Reduction of gradients").
_CPU_CYCLE_TIME_MS = "20"


class HorovodRuntime(SingleRuntime):
    """One of `hvd.size()` processes, on the GPU of its local rank or on the CPU.

    Args:
      compression: The dtype in which gradients are sent and summed; "none" keeps their own dtype.

    Raises:
      SettingsError: There are more processes on this host than GPUs.
    """

    name = "horovod"

    def __init__(self, compression: Literal["none", "float16"]) -> None:
        if not tf.config.list_physical_devices("GPU"):
            os.environ.setdefault("HOROVOD_CYCLE_TIME", _CPU_CYCLE_TIME_MS)
        self._wire = _WIRE[compression]
        self._connect()
        super().__init__(self._pin_device())
        # A graph reads them from variables, because they change in an elastic job.
        with tf.device("/device:CPU:0"):
            self._rank_and_size = tf.Variable([self.rank, self.world_size], trainable=False)

    def distribute(self, make_dataset: Callable[[int, int, int], tf.data.Dataset]) -> Any:
        return make_dataset(self.rank, self.world_size, 1)

    def replica_index(self) -> tf.Tensor:
        return self._rank_and_size[0]

    def replica_count(self) -> tf.Tensor:
        return self._rank_and_size[1]

    def sum_gradients(
        self, gradients: Sequence[tf.Tensor], name: str = "gradient"
    ) -> list[tf.Tensor]:
        # One operation per tensor. Each gradient is sent as soon as it is ready, which is during
        # the backward pass if the batch is computed as a whole. Horovod fuses tensors that are
        # ready at the same time. A grouped operation would wait for the last gradient.
        return [self._sum(g, f"{name}_{i}") for i, g in enumerate(gradients)]

    def sum_gradients_at_once(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """`sum_gradients` as a single operation, which starts when the last gradient is ready.

        Only `python -m benchmarks scaling` uses it, to measure why training does not.
        """
        return list(hvd.grouped_allreduce(list(gradients), op=hvd.Sum, name="gradients"))

    def all_gather(self, value: Any) -> list[Any]:
        return hvd.allgather_object(value, name="all_gather")

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        hvd.broadcast_variables(variables, root_rank=root)

    def _broadcast_array(self, array: np.ndarray, root: int) -> np.ndarray:
        """The array of process `root`, which has the same shape and dtype on every process."""
        received: np.ndarray = hvd.broadcast(tf.constant(array), root, name="array").numpy()
        return received

    def peer_error(self, error: Exception) -> PeerLost | None:
        if any(sign in f"{type(error).__name__}: {error}" for sign in _LOST):
            return PeerLost("another process of the job was lost. Start all of them again")
        return None

    def close(self) -> None:
        self._disconnect()

    def describe(self) -> str:
        return f"{self.world_size} Horovod processes, {super().describe()} each"

    def _connect(self) -> None:
        hvd.init()
        self.rank = hvd.rank()
        self.local_rank = hvd.local_rank()
        self.world_size = self.num_replicas = hvd.size()

    def _disconnect(self) -> None:
        hvd.shutdown()

    @property
    def uses_nccl(self) -> bool:
        """Whether NCCL sums the gradients, and not Gloo."""
        return bool(tf.config.list_physical_devices("GPU")) and bool(hvd.nccl_built())

    def _pin_device(self) -> str:
        return pin_device(hvd.local_rank(), hvd.local_size())

    def _sum(self, gradient: tf.Tensor, name: str) -> tf.Tensor:
        sent = gradient if self._wire is None else tf.cast(gradient, self._wire)
        return tf.cast(hvd.allreduce(sent, op=hvd.Sum, name=name), gradient.dtype)


def pin_device(local_rank: int, local_size: int) -> str:
    """Selects the GPU of a process, if this host has GPUs, and returns its device name.

    Raises:
      SettingsError: There are more processes on this host than GPUs.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "/device:CPU:0"
    if local_size > len(gpus):
        raise SettingsError(
            f"{local_size} processes on this host and {len(gpus)} GPU(s): start at most "
            f"{len(gpus)} here, for example with -np {len(gpus)} or -H HOST:{len(gpus)}"
        )
    tf.config.set_visible_devices(gpus[local_rank], "GPU")
    return "/device:GPU:0"
