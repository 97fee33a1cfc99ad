"""The interface through which the replicas of a model cooperate.

Other code calls these methods, and never a tf.distribute strategy or Horovod directly. It asks
`is_chief` where only one process may write or print. `kinds.start` creates the runtime that the
settings select.
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
    """One of `world_size` processes, and its collective operations.

    Attributes:
      name: Value of `distribute.runtime` that selects this class.
      rank: Index of this process, from 0.
      local_rank: Index of this process on its host, from 0.
      world_size: Number of processes.
      num_replicas: Number of model replicas in all processes.
      is_chief: Whether this process is the chief, rank 0, which writes files and messages for all.
      is_elastic: Whether processes can be lost and join during training.
      parallel_parts: Number of parts of a replica's batch to compute in parallel. On a CPU with few
        cores it is the number of cores, with one thread per part.
    """

    name: str
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    num_replicas: int = 1
    is_elastic: bool = False
    parallel_parts: int = 1

    @property
    def is_chief(self) -> bool:
        return self.rank == 0

    @property
    def local_replicas(self) -> int:
        """Number of model replicas in this process."""
        return self.num_replicas // self.world_size

    @abstractmethod
    def scope(self) -> AbstractContextManager[Any]:
        """Context in which to create variables."""

    @abstractmethod
    def distribute(self, make_dataset: Callable[[int, int, int], tf.data.Dataset]) -> Any:
        """Returns an iterable that gives each replica its part of the global batch.

        Args:
          make_dataset: Called with (index, count, splits). Returns the dataset of process `index`
            of `count`, whose elements go to its `splits` replicas in turn.
        """

    @abstractmethod
    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Calls `step` on each replica of this process and sums the returned values.

        Call it inside a tf.function. `step` returns a nested structure of tensors.

        Args:
          step: Function to call in replica context.
          *args: Elements of a `distribute`d dataset, or values that are the same for all replicas.
        """

    @abstractmethod
    def replica_index(self) -> tf.Tensor:
        """Index of this replica among `num_replicas`, int32 scalar. Call in replica context."""

    def replica_count(self) -> tf.Tensor:
        """`num_replicas` as an int32 scalar, for graphs that outlive a change of the group."""
        return tf.constant(self.num_replicas, tf.int32)

    @abstractmethod
    def sum_gradients(
        self, gradients: Sequence[tf.Tensor], name: str = "gradient"
    ) -> list[tf.Tensor]:
        """Sums gradients over all replicas of all processes. Call in replica context.

        Args:
          gradients: Tensors of one dtype, floats or integers.
          name: Distinguishes the calls of a step.
        """

    @abstractmethod
    def update(
        self,
        function: Callable[..., list[Any]],
        variables: Sequence[tf.Variable],
        values: Sequence[Sequence[Any]],
    ) -> Sequence[Any]:
        """Calls `function(variable, *values)` for each variable, on each replica's copy.

        Call in replica context. All replicas must pass equal values. A value that is a variable is
        passed as its copy on the same replica.

        Returns:
          In a graph, the operations that `function` returns. When they are done, all variables are
          updated. Empty with tf.distribute, which orders the updates itself.
        """

    @abstractmethod
    def all_gather(self, value: Any) -> list[Any]:
        """Returns the JSON-serializable values of all processes, by rank. All must call it."""

    def all_reduce(self, value: np.ndarray, how: Literal["sum", "any"]) -> np.ndarray:
        """Reduces a small host array over all processes. All must call it.

        The sum is computed in the order of ranks, so the same values give the same bits.
        """
        gathered = np.array(self.all_gather(np.asarray(value).tolist()))
        return np.asarray(gathered.sum(axis=0) if how == "sum" else gathered.any(axis=0))

    def broadcast_value(self, value: Any) -> Any:
        """Returns the chief's JSON-serializable value on every process. All must call it."""
        return self.all_gather(value if self.is_chief else None)[0]

    @abstractmethod
    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        """Assigns the values of these variables on process `root` on every process.

        Only elastic runtimes support another root than the chief.
        """

    @property
    def changes(self) -> tuple[str, ...]:
        """Who joined, left or was lost when an elastic job regrouped last, a line for each."""
        return ()

    @property
    def change_pending(self) -> bool:
        """Whether processes of an elastic job want to join or leave, or are lost."""
        return False

    @property
    def is_paused(self) -> bool:
        """Whether too few processes of an elastic job are left to train."""
        return False

    @property
    def stop_reason(self) -> str | None:
        """Why the launcher of an elastic job asks all processes to stop; None to continue."""
        return None

    def report_step(self, step: int) -> None:
        """Tells the launcher of an elastic job how far this process is."""
        raise RuntimeError(f"the processes of runtime {self.name} cannot change")

    def request_to_leave(self) -> None:
        """Asks for a change of the group, in which this process of an elastic job leaves."""
        raise RuntimeError(f"the processes of runtime {self.name} cannot change")

    @property
    def is_joining(self) -> bool:
        """Whether this process has not yet joined the others, which train already."""
        return False

    def leave(self) -> None:
        """Disconnects this process of an elastic job, which will exit, from the others."""
        raise RuntimeError(f"the processes of runtime {self.name} cannot change")

    def regroup(self) -> None:
        """Connects to the processes that train together from now on, in an elastic job.

        Ranks and the number of processes may change, and any process may become the chief.

        Raises:
          PeerLost: This process cannot continue, because too few others are left.
        """
        raise RuntimeError(f"the processes of runtime {self.name} cannot change")

    def barrier(self) -> None:
        """Waits until every process has called it."""
        self.all_gather(None)

    @abstractmethod
    def close(self) -> None:
        """Disconnects from the other processes."""

    def peer_error(self, error: Exception) -> PeerLost | None:
        """Returns a PeerLost if `error` was caused by a lost process; None for other errors."""
        return None

    @contextmanager
    def noticing_lost_peers(self) -> Iterator[None]:
        """Context that raises PeerLost for errors that were caused by a lost process.

        Before it re-raises an error that all processes raise together, it waits for all of them.
        Otherwise a process that exits early could disturb the others, and they would report a
        lost peer instead of the error.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, PipelineError) and error.said_by_chief:
                with suppress(Exception):  # the original error is more useful
                    self.barrier()
            if (lost := self.peer_error(error)) is not None:
                raise lost from error
            raise

    @abstractmethod
    def describe(self) -> str:
        """Describes the devices and processes it trains on, for messages."""
