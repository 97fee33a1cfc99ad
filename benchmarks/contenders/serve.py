"""Times batches in a process of another library.

Only the standard library is imported here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Work(NamedTuple):
    """What each implementation does: decode, random resized crop, flip, normalize to -1..1.

    Attributes:
      files: JPEG files.
      size: Height and width of the result, in pixels.
      batch_size: Images per batch.
      min_area: Smallest area of a crop as a fraction of the image.
      threads: Number of threads or processes that work.
    """

    files: list[Path]
    size: int
    batch_size: int
    min_area: float
    threads: int

    @classmethod
    def of_arguments(cls) -> Work:
        """Reads it from sys.argv: a folder and the four numbers."""
        folder, size, batch_size, min_area, threads = sys.argv[1:]
        files = sorted(Path(folder).iterdir())
        return cls(files, int(size), int(batch_size), float(min_area), int(threads))


def serve(batches: Callable[[], Iterator[Any]], batch_size: int) -> None:
    """Prints "ready". For each line on standard input, prints the images per second.

    A line has the seconds of warm-up and the seconds to measure.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        warm_up_s, seconds = map(float, line.split())
        iterator = batches()
        _count(iterator, warm_up_s)
        start_s = time.perf_counter()
        count = _count(iterator, seconds)
        rate = count * batch_size / (time.perf_counter() - start_s)
        # It may have processes, which would work during the timings of others.
        del iterator
        print(f"rate {rate}", flush=True)


def _count(iterator: Iterator[Any], seconds: float) -> int:
    count, start_s = 0, time.perf_counter()
    while time.perf_counter() - start_s < seconds:
        next(iterator)
        count += 1
    return count
