"""Many processes with all their devices, joined by tf.distribute.MultiWorkerMirroredStrategy."""

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

# What collectives fail with once a worker has left.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
_FAREWELL_MS = 60_000

_WORD = 8  # bytes of an int64
_BROADCAST_BYTES = 64 * 2**20  # most that one collective of `broadcast` carries


class MultiWorkerRuntime(MirroredRuntime):
    """Worker `place.rank` of those that TF_CONFIG names.

    Making it joins the others and waits for them; it must come before any other use of TensorFlow.
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
        # A gathered value is padded on every worker to the longest: too much for a large one.
        data = json.dumps(value).encode() if self.is_chief else b""
        return json.loads(self._broadcast_bytes(data, self.all_gather(len(data))[0]))

    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        # A collective takes milliseconds however small its tensor is, and a model has hundreds of
        # variables: many of them travel in one tensor.
        for group in _groups_of(variables, _BROADCAST_BYTES):
            data = b"".join(_bytes_of(variable) for variable in group) if self.is_chief else b""
            received = self._broadcast_bytes(data, sum(map(_size_of, group)))
            place = 0
            for variable in group:
                count, kind = math.prod(variable.shape), variable.dtype.as_numpy_dtype
                array = np.frombuffer(received, kind, count, place)
                variable.assign(array.reshape(variable.shape))
                place += _size_of(variable)

    def barrier(self) -> None:
        """Returns when every process has come here, and none needs this one for that any more.

        A collective is over for a worker as soon as its own part is: if its process ends there,
        what it has just sent to another can be lost on the way out. So each says that it has all
        it was sent, and the chief, who keeps what is said, leaves last.
        """
        super().barrier()
        self._barriers += 1
        ranks = range(1, self.world_size)
        if self.is_chief:
            self._hear("here", ranks)
            self._say("go")
            self._hear("gone", ranks)
            return
        self._say("here")
        self._hear("go", [0])
        with suppress(*_LOST):  # the chief has heard it, though its answer may not come
            self._say("gone")

    def _say(self, word: str) -> None:
        # The coordination service, which the chief keeps, has no public door in TensorFlow 2.21.
        context.context().set_config_key_value(f"{word}/{self._barriers}/{self.rank}", "")

    def _hear(self, word: str, ranks: Sequence[int]) -> None:
        for rank in ranks:
            context.context().get_config_key_value(f"{word}/{self._barriers}/{rank}", _FAREWELL_MS)

    def peer_error(self, error: Exception) -> PeerLost | None:
        if isinstance(error, _LOST):
            return PeerLost("another worker was lost. Start all of them again")
        return None

    def describe(self) -> str:
        return f"{self.world_size} workers, {self.num_replicas} replicas, mirrored"

    def _broadcast_bytes(self, data: bytes, size: int) -> bytes:
        """The chief's `size` bytes in every process; the others pass none."""
        words = np.zeros(math.ceil(size / _WORD), np.int64)
        words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        for start in range(0, len(words), _BROADCAST_BYTES // _WORD):
            part = words[start : start + _BROADCAST_BYTES // _WORD]
            # The sum of the chief's words and zeros. Integers keep every bit, also of -0.0 and NaN.
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
    """The variables in their order, in groups of at most `limit` bytes; a larger one is alone."""
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
