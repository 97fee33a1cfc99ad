"""Fingerprints of splits, to detect whether a later start reads the same examples and labels."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.data.split import Split
from pipeline.storage.read import stat

# Enough threads to hide the latency of shared storage. Each one reads the sizes of many files.
_READERS = 32


def fingerprint(split: Split) -> str:
    """Computes a fingerprint of the examples, their labels and their order: 32 hexadecimal digits.

    It is cheap enough for every start. It depends on the names and sizes of image files, on the
    shards and positions of records, and on the pixels of images in memory. It does not depend on
    the location of the data set or on modification times.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(split.labels, "<i4").data, digest_size=16)
    if split.images is not None:
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
    elif split.paths is not None:
        for name in relative_names(split.paths):
            digest.update(name + b"\0")
        digest.update(np.array(file_sizes(split.paths), "<i8").data)
    elif split.records is not None:
        for part in split.records.identity():
            digest.update(part)
    return digest.hexdigest()


def relative_names(paths: Sequence[str]) -> list[bytes]:
    """Returns the paths relative to their common folder, in Unicode normal form NFC."""
    if not paths:
        return []
    # The common prefix of the first and last path in sorted order is that of all. `commonpath` does
    # not allow a mixture of absolute and relative paths, which a list may contain.
    shared = os.path.commonprefix([min(paths), max(paths)])  # noqa: RUF071
    start = shared.rfind("/") + 1
    return [os.fsencode(unicodedata.normalize("NFC", path[start:])) for path in paths]


def file_sizes(paths: Sequence[str]) -> list[int]:
    """Returns the size of each file in bytes, or -1 if it cannot be read."""
    parts = [paths[start : start + 1024] for start in range(0, len(paths), 1024)]
    with ThreadPoolExecutor(_READERS) as pool:
        return [size for part in pool.map(_sizes_of_some, parts) for size in part]


def _sizes_of_some(paths: Sequence[str]) -> list[int]:
    sizes = []
    for path in paths:
        try:
            sizes.append(stat(path).st_size)
        except (OSError, ValueError):
            sizes.append(-1)
    return sizes
