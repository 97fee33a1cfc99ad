"""A fingerprint of a split: whether a later start reads the same examples with the same labels."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.data.split import Split
from pipeline.storage.read import stat

# Enough to hide the latency of shared storage. Each thread reads the sizes of many files.
_READERS = 32


def fingerprint(split: Split) -> str:
    """Identifies the examples of a split, their labels and their order; 32 hexadecimal digits.

    Cheap enough for every start: of image files, the names and sizes count; of records, the shards
    and the place of each record; of images in memory, the pixels. Where the data set is, and when
    its files were written, does not count.
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
    """The names relative to the folder that all of them share, in Unicode's composed form."""
    if not paths:
        return []
    # What the first and the last in the order of strings share, all share. Characters, since the
    # paths of a list may be absolute and relative, which `commonpath` refuses.
    shared = os.path.commonprefix([min(paths), max(paths)])  # noqa: RUF071
    start = shared.rfind("/") + 1
    return [os.fsencode(unicodedata.normalize("NFC", path[start:])) for path in paths]


def file_sizes(paths: Sequence[str]) -> list[int]:
    """Bytes of each file, -1 where it cannot be read."""
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
