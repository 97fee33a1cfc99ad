"""The interface through which replicas of a model cooperate.

No other file asks for a rank, a strategy or a device. `kinds.start` makes the runtime that the
settings ask for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from pipeline.errors import PeerLost, PipelineError

Batch = dict[str, tf.Tensor]


class Runtime(ABC):
    """The facts and the verbs of one process among `world_size`.

    Attributes:
      name: How `distribute.runtime` calls it.
      rank: Number of this process, from 0.
      local_rank: Its number on this host.
      world_size: Processes in all.
      num_replicas: Copies of the model in all processes.
      is_chief: Whether this process writes and speaks for all.
      parts_at_a_time: Parts of a replica's batch to compute side by side: on a CPU with few cores
        one a core, each with one thread.
    """

    name: str
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    num_replicas: int = 1
    parts_at_a_time: int = 1

    @property
    def is_chief(self) -> bool:
        return self.rank == 0

    @property
    def local_replicas(self) -> int:
        """Copies of the model in this process."""
        return self.num_replicas // self.world_size

    @abstractmethod
    def scope(self) -> AbstractContextManager[Any]:
        """Create variables inside."""

    @abstractmethod
    def distribute(self, make_dataset: Callable[[int, int, int], tf.data.Dataset]) -> Any:
        """An iterable that hands each replica its own part of the global batch.

        Args:
          make_dataset: Called with (index, count, splits): the dataset of process `index` of
            `count`, whose elements are for its `splits` replicas in turn.
        """

    @abstractmethod
    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Calls `step` on each replica of this process and sums what they return.

        To be called inside a tf.function; `args` are elements of `distribute`d data, or the same
        for all. `step` returns a nest of tensors.
        """

    @abstractmethod
    def replica_index(self) -> tf.Tensor:
        """Number of this replica among all, int32 scalar; in replica context."""

    @abstractmethod
    def sum_gradients(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Sums over all replicas of all processes; in replica context."""

    @abstractmethod
    def update(
        self,
        function: Callable[..., None],
        variables: Sequence[tf.Variable],
        values: Sequence[Sequence[Any]],
    ) -> None:
        """Calls `function(copy, *values)` on each replica's copy of each variable.

        In replica context. All replicas must pass equal values, and those values that are
        variables are passed as their copy on the same replica.
        """

    @abstractmethod
    def all_gather(self, value: Any) -> list[Any]:
        """Every process's value (anything JSON can hold), by rank; all must call it."""

    def all_reduce(self, value: np.ndarray, how: Literal["sum", "any"]) -> np.ndarray:
        """Reduces a small host array over processes; all must call it.

        Summed in the order of ranks, so that the same values give the same bits.
        """
        gathered = np.array(self.all_gather(np.asarray(value).tolist()))
        return np.asarray(gathered.sum(axis=0) if how == "sum" else gathered.any(axis=0))

    def broadcast_value(self, value: Any) -> Any:
        """The chief's value (anything JSON can hold) in every process; all must call it."""
        return self.all_gather(value if self.is_chief else None)[0]

    @abstractmethod
    def broadcast(self, variables: Sequence[tf.Variable]) -> None:
        """Gives every process the chief's values of these variables."""

    def barrier(self) -> None:
        """Returns when every process has come here."""
        self.all_gather(None)

    @abstractmethod
    def close(self) -> None:
        """Leaves the group of processes."""

    def peer_error(self, error: Exception) -> PeerLost | None:
        """What `error` means where it came from losing another process; None for other errors."""
        return None

    @contextmanager
    def noticing_lost_peers(self) -> Iterator[None]:
        """Inside, an error that came from losing another process is raised as PeerLost.

        An error that all processes raise together is raised when all have come to it: none that
        ends at once takes the news of it from the others.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, PipelineError) and error.said_by_chief:
                with suppress(Exception):  # the error itself says more
                    self.barrier()
            if (lost := self.peer_error(error)) is not None:
                raise lost from error
            raise

    @abstractmethod
    def describe(self) -> str:
        """What it trains on, in words."""
