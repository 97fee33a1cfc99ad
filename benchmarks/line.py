"""One line of the input benchmark's table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tensorflow as tf


class Line(NamedTuple):
    """Something that is timed.

    Attributes:
      title: What it does.
      make: Makes its batches.
      batch_size: Images in one.
      against: Title of the line of ours that does the same work, for lines of others.
    """

    title: str
    make: Callable[[], tf.data.Dataset]
    batch_size: int
    against: str | None = None
