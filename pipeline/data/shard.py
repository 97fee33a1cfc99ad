"""Which examples of the global batch belong to a process and its replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from pipeline.errors import SettingsError


@dataclass(frozen=True)
class Shard:
    """The part of the global batch that belongs to this process.

    The global batch consists of equal pieces. Without microbatches, each replica of all processes
    has one piece. Otherwise the pieces are the microbatches, and replica r of n computes those from
    number r * microbatches // n to before (r + 1) * microbatches // n.

    Attributes:
      index: Index of this process.
      count: Number of processes.
      splits: Number of replicas in this process.
      microbatches: Number of microbatches, at least the number of replicas; None for none.
      may_change: Whether the number of processes may change during training. The first dimension of
        a batch is then unknown to graphs, so that one graph serves any number.
    """

    index: int = 0
    count: int = 1
    splits: int = 1
    microbatches: int | None = None
    may_change: bool = False

    def __post_init__(self) -> None:
        if self.count < 1 or self.splits < 1 or not 0 <= self.index < self.count:
            raise ValueError(f"must have 0 <= index < count and splits >= 1. Received: {self}")
        if self.pieces < self.replicas:
            raise ValueError(f"must have a microbatch for each replica. Received: {self}")

    @property
    def replicas(self) -> int:
        """Number of replicas of all processes."""
        return self.count * self.splits

    @property
    def pieces(self) -> int:
        """Number of pieces of a global batch, over all processes."""
        return self.replicas if self.microbatches is None else self.microbatches

    @property
    def turns(self) -> int:
        """Number of pieces that the dataset yields for each replica and step.

        Some replicas may have one microbatch less. Their last one is then the next replica's, and
        must not be computed.
        """
        return -(-self.pieces // self.replicas)

    def piece_size(self, batch_size: int, setting: str = "data.global_batch_size") -> int:
        """Returns the number of examples in a piece.

        Raises:
          SettingsError: The batch cannot be divided into equal pieces.
        """
        if batch_size % self.pieces:
            below = batch_size // self.pieces * self.pieces
            fitting = " or ".join(str(n) for n in (below, below + self.pieces) if n)
            owners = f"{self.replicas} replicas ({self.count} processes of {self.splits})"
            if self.microbatches is not None:
                owners = f"{self.microbatches} microbatches"
            raise SettingsError(
                f"{setting}={batch_size} cannot be divided equally over {owners}. Set it to "
                f"{fitting}"
            )
        return batch_size // self.pieces

    def first_position(self, number: tf.Tensor, batch_size: int) -> tf.Tensor:
        """Returns the position in the global order of the first example of piece `number` of this
        process, an int64 scalar. The other examples of the piece follow it.

        The pieces of a step follow each other by replica.
        """
        size = self.piece_size(batch_size)
        step, own = number // (self.splits * self.turns), number % (self.splits * self.turns)
        replica, turn = self.index * self.splits + own // self.turns, own % self.turns
        piece = tf.minimum(first_piece(replica, self.pieces, self.replicas) + turn, self.pieces - 1)
        return step * batch_size + piece * size


def first_piece(replica: Any, pieces: int, replicas: int) -> Any:
    """Number of the first piece of a replica; integers or integer tensors."""
    return replica * pieces // replicas
