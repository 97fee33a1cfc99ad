"""One process, one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from pipeline.runtimes.runtime import Runtime


class SingleRuntime(Runtime):
    """A runtime with one replica, whose collective operations are the identity.

    Args:
      device: Name of the TensorFlow device, such as "/device:GPU:0".
    """

    name = "single"

    def __init__(self, device: str) -> None:
        self._device = device

    def scope(self) -> AbstractContextManager[Any]:
        return tf.device(self._device)

    def distribute(self, make_dataset: Callable[[int, int, int], tf.data.Dataset]) -> Any:
        return make_dataset(0, 1, 1)

    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        with tf.device(self._device):
            return step(*args)

    def replica_index(self) -> tf.Tensor:
        return tf.constant(0, tf.int32)

    def sum_gradients(
        self, gradients: Sequence[tf.Tensor], name: str = "gradient"
    ) -> list[tf.Tensor]:
        return list(gradients)

    def update(
        self,
        function: Callable[..., list[Any]],
        variables: Sequence[tf.Variable],
        values: Sequence[Sequence[Any]],
    ) -> Sequence[Any]:
        done = [function(variable, *own) for variable, own in zip(variables, values, strict=True)]
        return [operation for each in done for operation in each]

    def all_gather(self, value: Any) -> list[Any]:
        return [value]

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        pass

    def close(self) -> None:
        pass

    def describe(self) -> str:
        return f"one device, {self._device.removeprefix('/device:')}"
