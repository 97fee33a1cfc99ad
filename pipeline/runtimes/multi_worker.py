"""Several processes with all their devices, through tf.distribute.MultiWorkerMirroredStrategy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from pipeline.errors import PeerLost
from pipeline.runtimes.environment import Place
from pipeline.runtimes.mirrored import MirroredRuntime

# Errors of collectives after a worker has exited.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
_BARRIER_TIMEOUT_MS = 60_000

_WORD = 8  # bytes of an int64
_BROADCAST_BYTES = 64 * 2**20  # maximum size of one collective of `broadcast`


class MultiWorkerRuntime(MirroredRuntime):
    """Worker `place.rank` of the cluster in TF_CONFIG.

    The constructor connects to the other workers and waits for them. Call it before any other use
    of TensorFlow.
    """

    name = "multi_worker"

    def __init__(self, place: Place) -> None:
        self.rank = place.rank
        self.world_size = place.world_size
        self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        self.num_replicas = self._strategy.num_replicas_in_sync
        self._barriers = 0
        self._gather = tf.function(self._gather_bytes, reduce_retracing=True)

    def all_gather(self, value: Any) -> list[Any]:
        data = tf.io.decode_raw(json.dumps(value), tf.uint8)  # [n]
        sizes = self._gather(tf.cast(tf.shape(data), tf.int32)).numpy()  # [workers]
        padded = tf.pad(data, [[0, int(sizes.max()) - len(data)]])
        rows = self._gather(tf.cast(padded, tf.int32)).numpy().reshape(self.world_size, -1)
        return [
            json.loads(bytes(row[:size].astype("uint8").tolist()))
            for row, size in zip(rows, sizes, strict=True)
        ]

    def broadcast_value(self, value: Any) -> Any:
        # `all_gather` pads the values of all workers to the longest one, which would multiply the
        # size of a large value by the number of workers.
        data = json.dumps(value).encode() if self.is_chief else b""
        return json.loads(self._broadcast_bytes(data, self.all_gather(len(data))[0]))

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        if root:
            raise ValueError(f"root must be 0. Received: {root}")
        # A collective takes milliseconds even for a small tensor, and a model has hundreds of
        # variables. Many variables are therefore packed into one tensor.
        for group in _groups_of(variables, _BROADCAST_BYTES):
            data = b"".join(_bytes_of(variable) for variable in group) if self.is_chief else b""
            received = self._broadcast_bytes(data, sum(map(_size_of, group)))
            offset = 0
            for variable in group:
                count, kind = math.prod(variable.shape), variable.dtype.as_numpy_dtype
                array = np.frombuffer(received, kind, count, offset)
                variable.assign(array.reshape(variable.shape))
                offset += _size_of(variable)

    def barrier(self) -> None:
        """Waits until every process has called it and can exit without disturbing the others.

        A collective finishes on a worker as soon as the worker has done its own part. If the
        process exits then, data that it has just sent to another worker can be lost. Each worker
        therefore confirms that it has received everything. The chief hosts the coordination
        service with these confirmations, so it leaves last.
        """
        super().barrier()
        self._barriers += 1
        ranks = range(1, self.world_size)
        if self.is_chief:
            self._wait_for_key("here", ranks)
            self._set_key("go")
            self._wait_for_key("gone", ranks)
            return
        self._set_key("here")
        self._wait_for_key("go", [0])
        with suppress(*_LOST):  # the chief may exit before it has answered this request
            self._set_key("gone")

    def _set_key(self, name: str) -> None:
        # TensorFlow 2.21 has no public API for the coordination service, which the chief hosts.
        context.context().set_config_key_value(f"{name}/{self._barriers}/{self.rank}", "")

    def _wait_for_key(self, name: str, ranks: Sequence[int]) -> None:
        for rank in ranks:
            key = f"{name}/{self._barriers}/{rank}"
            context.context().get_config_key_value(key, _BARRIER_TIMEOUT_MS)

    def peer_error(self, error: Exception) -> PeerLost | None:
        if isinstance(error, _LOST):
            return PeerLost("another worker was lost. Start all of them again")
        return None

    def describe(self) -> str:
        return f"{self.world_size} workers, {self.num_replicas} replicas, mirrored"

    def _broadcast_bytes(self, data: bytes, size: int) -> bytes:
        """Returns the chief's `size` bytes on every process; the others pass empty `data`."""
        words = np.zeros(math.ceil(size / _WORD), np.int64)
        words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        for start in range(0, len(words), _BROADCAST_BYTES // _WORD):
            part = words[start : start + _BROADCAST_BYTES // _WORD]
            # Sums the chief's words and zeros. Integers preserve every bit, also of -0.0 and NaN.
            numbers = self._on_first_replica(tf.constant(part))
            part[:] = self._strategy.reduce("SUM", numbers, axis=None).numpy()
        return words.tobytes()[:size]

    def _on_first_replica(self, value: tf.Tensor) -> Any:
        first = self.rank * self.local_replicas
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: (
                value if context.replica_id_in_sync_group in (0, first) else tf.zeros_like(value)
            )
        )

    def _gather_bytes(self, value: tf.Tensor) -> tf.Tensor:
        """Concatenates each worker's vector, [n] -> [workers * n]."""

        def each() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_gather(value[None], axis=0)  # [n] -> [replicas, n]

        gathered = self._strategy.experimental_local_results(self._strategy.run(each))[0]
        return tf.reshape(gathered[:: self.local_replicas], [-1])


def _groups_of(variables: Sequence[tf.Variable], limit: int) -> Iterator[list[tf.Variable]]:
    """Yields the variables in order, in groups of at most `limit` bytes; a larger one is alone."""
    group: list[tf.Variable] = []
    size = 0
    for variable in variables:
        if group and size + _size_of(variable) > limit:
            yield group
            group, size = [], 0
        group.append(variable)
        size += _size_of(variable)
    if group:
        yield group


def _size_of(variable: tf.Variable) -> int:
    return math.prod(variable.shape) * int(variable.dtype.size)


def _bytes_of(variable: tf.Variable) -> bytes:
    return bytes(tf.identity(variable).numpy().tobytes())
