"""All devices of this machine in one process, through tf.distribute.MirroredStrategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from pipeline.runtimes.single import SingleRuntime


class MirroredRuntime(SingleRuntime):
    """One replica on each of `devices`, in a single process."""

    name = "mirrored"

    def __init__(self, devices: Sequence[str]) -> None:
        super().__init__(devices[0])
        self.num_replicas = len(devices)
        # NCCL supports only GPUs. Logical CPU devices are summed on one of them.
        on_gpu = "GPU" in devices[0]
        self._strategy: tf.distribute.Strategy = tf.distribute.MirroredStrategy(
            list(devices), None if on_gpu else tf.distribute.ReductionToOneDevice()
        )

    def scope(self) -> AbstractContextManager[Any]:
        return self._strategy.scope()

    def distribute(self, make_dataset: Callable[[int, int, int], tf.data.Dataset]) -> Any:
        return self._strategy.distribute_datasets_from_function(
            lambda context: make_dataset(self.rank, self.world_size, self.local_replicas)
        )

    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        per_replica = self._strategy.run(step, args=args)
        # Sums over this process's replicas only; `strategy.reduce` would sum over all processes.
        return tf.nest.map_structure(
            lambda value: tf.add_n(self._strategy.experimental_local_results(value)), per_replica
        )

    def replica_index(self) -> tf.Tensor:
        return tf.cast(_context().replica_id_in_sync_group, tf.int32)

    def sum_gradients(
        self, gradients: Sequence[tf.Tensor], name: str = "gradient"
    ) -> list[tf.Tensor]:
        if len(gradients) > 1 and gradients[0].dtype == tf.int32:
            # MirroredStrategy refuses several tensors of int32 in one call (TensorFlow 2.21).
            flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)
            (total,) = self.sum_gradients([flat], name)
            parts = tf.split(total, [g.shape.num_elements() for g in gradients])
            return [tf.reshape(p, g.shape) for p, g in zip(parts, gradients, strict=True)]
        return _context().all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))

    def update(
        self,
        function: Callable[..., list[Any]],
        variables: Sequence[tf.Variable],
        values: Sequence[Sequence[Any]],
    ) -> Sequence[Any]:
        def update_one(variable: tf.Variable, *own: Any) -> None:
            function(variable, *own)

        def update_all(strategy: tf.distribute.Strategy, values: Any) -> None:
            for variable, own in zip(variables, values, strict=True):
                strategy.extended.update(variable, update_one, args=tuple(own), group=False)

        _context().merge_call(update_all, args=(list(map(tuple, values)),))
        return []

    def describe(self) -> str:
        return f"{self.num_replicas} devices of this machine, mirrored"


def _context() -> tf.distribute.ReplicaContext:
    return tf.distribute.get_replica_context()
