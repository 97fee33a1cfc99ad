"""Input that is read ahead of time although operations are deterministic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism, is_op_determinism_enabled


@contextmanager
def reading_ahead() -> Iterator[None]:
    """Context in which to create iterators over the input stage.

    With deterministic operations, a new tf.data iterator calls functions that have stateful
    operations, such as decoding files, one after another, and prefetches nothing, because their
    results could depend on the order of calls. Ours depend on the position of the example only.
    """
    if not is_op_determinism_enabled():
        yield
        return
    disable_op_determinism()
    try:
        yield
    finally:
        tf.config.experimental.enable_op_determinism()
