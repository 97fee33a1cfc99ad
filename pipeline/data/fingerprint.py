"""Fingerprints of splits, to detect whether a later start reads the same examples and labels."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

import numpy as np
import numpy.typing as npt

from pipeline.data.paths import Paths, encoded, normalized
from pipeline.data.split import Split
from pipeline.storage.read import stat

# Enough threads to hide the latency of shared storage. Each one reads the sizes of many files.
_READERS = 32
_AT_ONCE = 1024
# If the size of a file takes less, one thread is faster than many that wait for each other.
_FAST_S = 50e-6


def fingerprint(split: Split) -> str:
    """Computes a fingerprint of the examples, their labels and their order: 32 hexadecimal digits.

    It is cheap enough for every start. It depends on the names and sizes of image files, on the
    shards and positions of records, and on the pixels of images in memory. It does not depend on
    the location of the data set or on modification times.
    """
    if split.known_fingerprint is not None:
        return split.known_fingerprint
    digest = hashlib.blake2b(np.ascontiguousarray(split.labels, "<i4").data, digest_size=16)
    if split.images is not None:
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
    elif split.paths is not None:
        for name in relative_names(split.paths):
            digest.update(name + b"\0")
        digest.update(file_sizes(split.paths).astype("<i8").data)
    elif split.records is not None:
        for part in split.records.identity():
            digest.update(part)
    return digest.hexdigest()


def relative_names(paths: Sequence[str]) -> Iterator[bytes]:
    """Yields the paths relative to their common folder, in Unicode normal form NFC."""
    if not paths:
        return
    some = [f"{folder}/" for folder in paths.used()] if isinstance(paths, Paths) else list(paths)
    # The common prefix of the first and last path in sorted order is that of all. `commonpath` does
    # not allow a mixture of absolute and relative paths, which a list may contain.
    shared = os.path.commonprefix([min(some), max(some)])  # noqa: RUF071
    start = len(os.fsencode(shared[: shared.rfind("/") + 1]))
    for path in encoded(paths):
        yield normalized(path[start:])


def file_sizes(paths: Sequence[str]) -> npt.NDArray[np.int64]:
    """Returns the size of each file in bytes, or -1 if it cannot be read; int64 [N]."""
    parts = _parts(encoded(paths))
    start_s = time.perf_counter()
    first = _sizes_of_some(next(parts, []))
    if time.perf_counter() - start_s < _FAST_S * len(first):
        return np.concatenate([first, *map(_sizes_of_some, parts)])
    with ThreadPoolExecutor(_READERS) as pool:
        return np.concatenate([first, *pool.map(_sizes_of_some, parts)])


def sampled(count: int, most: int) -> npt.NDArray[np.int64]:
    """Returns up to `most` indices that are spread over `count` examples."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _parts(paths: Iterator[bytes]) -> Iterator[list[bytes]]:
    while part := list(islice(paths, _AT_ONCE)):
        yield part


def _sizes_of_some(paths: Sequence[bytes]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(_size, paths), np.int64, len(paths))


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        # Only this tries again if that may help. For a million files, it would take a second more.
        with suppress(OSError, ValueError):
            return stat(os.fsdecode(path)).st_size
    return -1
