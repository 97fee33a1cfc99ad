"""One line of the input benchmark's table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tensorflow as tf


class Line(NamedTuple):
    """An input pipeline that is timed.

    Attributes:
      title: What it does.
      make: Creates the pipeline.
      batch_size: Images per batch.
      against: For another implementation, the title of our line that does the same work.
    """

    title: str
    make: Callable[[], tf.data.Dataset]
    batch_size: int
    against: str | None = None
