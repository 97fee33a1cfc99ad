"""The values of variables as bytes, which reach another process completely or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

PART_BYTES = 1 << 26


def read_parts(
    variables: Sequence[tf.Variable], part_bytes: int = PART_BYTES
) -> Iterator[np.ndarray]:
    """Yields the bytes of all variables in parts, uint8.

    Args:
      variables: The variables.
      part_bytes: A part ends with the variable that makes it at least this large.
    """
    pending: list[np.ndarray] = []
    for variable in variables:
        pending.append(np.frombuffer(variable.numpy().tobytes(), np.uint8))
        if sum(part.size for part in pending) >= part_bytes:
            yield np.concatenate(pending)
            pending = []
    if pending:
        yield np.concatenate(pending)


def assign_parts(variables: Sequence[tf.Variable], parts: Sequence[np.ndarray]) -> None:
    """Sets variables to the values that `read_parts` read from the same ones elsewhere."""
    data, start = np.concatenate(parts), 0
    for variable in variables:
        shape, dtype = tuple(variable.shape), np.dtype(variable.dtype.as_numpy_dtype)
        end = start + math.prod(shape) * dtype.itemsize
        variable.assign(data[start:end].view(dtype).reshape(shape))
        start = end
