"""Finds images that are in two splits or have two labels."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple, TypeVar

from pipeline.data.split import DataSource, Split
from pipeline.errors import DataError
from pipeline.storage import read as storage

# Up to these sizes the search takes a second or two on a local disk.
MOST_FILES = 20_000
MOST_RECORDS = 2_000
MOST_BYTES = 2**28  # pixels in memory, or files that are read completely

_TAIL_BYTES = 4096
_READERS = 16
_BATCH = 256

R = TypeVar("R")
_Image = tuple[Hashable, "Place"]  # a hash of its content, and its place


class Place(NamedTuple):
    """Split, label and name of an image."""

    split: str
    label: int
    name: str


@dataclass(frozen=True)
class Duplicates:
    """Pairs of equal images: the first one in the order of the data set, and a later one.

    Attributes:
      splits: Pairs in different splits.
      labels: Pairs with different labels.
      compared: Number of images that were compared, from the start of the data set.
      total: Number of images in the data set.
    """

    splits: list[tuple[Place, Place]] = field(default_factory=list)
    labels: list[tuple[Place, Place]] = field(default_factory=list)
    compared: int = 0
    total: int = 0

    @property
    def complete(self) -> bool:
        """Whether all images were compared within the time limit."""
        return self.compared == self.total

    def notes(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Returns a note for each kind of pair that was found."""
        notes = []
        if self.splits:
            a, b = self.splits[0]
            notes.append(
                f"{len(self.splits):,} images are in more than one split, for example {b.name} "
                f"({b.split}) = {a.name} ({a.split}). Results on them do not show how well the "
                "model generalizes"
            )
        if self.labels:
            a, b = self.labels[0]
            notes.append(
                f"{len(self.labels):,} images have two labels, for example {b.name} "
                f"({classes[b.label]}) = {a.name} ({classes[a.label]}). Remove or relabel them"
            )
        return tuple(notes)


def find_pairs(images: Iterable[_Image]) -> Duplicates:
    """Finds pairs among images, each given by a hash of its content and its place.

    `compared` and `total` remain 0, because images without a possible duplicate need not be given.
    """
    first: dict[Hashable, Place] = {}
    found = Duplicates()
    for content, place in images:
        other = first.setdefault(content, place)
        if other.split != place.split:
            found.splits.append((other, place))
        if other.label != place.label:
            found.labels.append((other, place))
    return found


def find_duplicates(
    source: DataSource, limit_s: float = 5.0, limit_bytes: int = MOST_BYTES
) -> Duplicates | None:
    """Looks for equal images if the search is cheap.

    Images in memory are compared up to `limit_bytes`. Up to 20,000 files are compared: files with
    the same size and the same last 4 KiB are compared byte by byte, so that few are read
    completely. For TFRecord files, up to 2,000 records are compared. Links to the same file are not
    duplicates; they are reported when the files are listed.

    Args:
      source: The data set.
      limit_s: Time limit. When it is reached, the pairs found so far are returned, and `complete`
        is false.
      limit_bytes: Maximum size of pixels in memory.

    Returns:
      The pairs; None if the data set is too large.
    """
    splits = source.splits.values()
    total = sum(split.num_examples for split in splits)
    until_s = time.monotonic() + limit_s
    if all(split.images is not None for split in splits):
        size = sum(0 if split.images is None else split.images.nbytes for split in splits)
        look, too_large = _of_memory, size > limit_bytes
    elif all(split.paths is not None for split in splits):
        look, too_large = _of_files, total > MOST_FILES
    else:
        look, too_large = _of_records, total > MOST_RECORDS
    if too_large:
        return None
    images, compared = look(source, until_s)
    return replace(find_pairs(images), compared=compared, total=total)


def _of_memory(source: DataSource, until_s: float) -> tuple[list[_Image], int]:
    """Returns the images until the time limit, and how many were read."""
    images: list[_Image] = []
    for name, split in source.splits.items():
        for index, image in enumerate(split.images if split.images is not None else ()):
            if index % _BATCH == 0 and time.monotonic() > until_s:
                return images, len(images)
            images.append((_digest(image.tobytes()), _place(name, split, index)))
    return images, len(images)


def _of_records(source: DataSource, until_s: float) -> tuple[list[_Image], int]:
    """Returns the readable records until the time limit, and how many were tried."""
    images: list[_Image] = []
    places = [(name, i) for name, split in source.splits.items() for i in range(split.num_examples)]
    for number, (name, index) in enumerate(places):
        if time.monotonic() > until_s:
            return images, number
        split = source.splits[name]
        with suppress(DataError):
            images.append((_digest(split.content(index)), _place(name, split, index)))
    return images, len(places)


class _File(NamedTuple):
    split: str
    number: int
    path: str
    label: int
    root: storage.RealFolder | None


def _of_files(source: DataSource, until_s: float) -> tuple[list[_Image], int]:
    """Returns files that may have duplicates, and the number of files before the first skipped."""
    files = [
        _File(name, index, path, label, split.root)
        for name, split in source.splits.items()
        for index, (path, label) in enumerate(
            zip(split.paths or (), split.labels.tolist(), strict=True)
        )
    ]
    with ThreadPoolExecutor(_READERS) as pool:
        found, not_found = _timed(pool, _stat, files, until_s)
        sizes = {file: one.st_size for file, one in found.items()}
        tails, without_tail = _timed(pool, _tail, _suspects(sizes), until_s)
        alike = {file: (sizes[file], tail) for file, tail in tails.items()}
        suspects = _suspects(alike)
        wanted = sum(read <= MOST_BYTES for read in accumulate(sizes[file] for file in suspects))
        contents, unread = _timed(pool, _content, suspects[:wanted], until_s)
    known: set[tuple[Hashable, int, int]] = set()
    images: list[_Image] = []
    for file, content in contents.items():
        identity = content, found[file].st_dev, found[file].st_ino
        if identity not in known:
            known.add(identity)
            images.append((content, _place(file.split, source.splits[file.split], file.number)))
    left = {*not_found, *without_tail, *unread, *suspects[wanted:]}
    return images, next((i for i, file in enumerate(files) if file in left), len(files))


def _suspects(keys: dict[_File, R]) -> list[_File]:
    """Returns files whose key also occurs in another split or class, in order."""
    kinds: dict[R, set[tuple[str, int]]] = defaultdict(set)
    for file, key in keys.items():
        kinds[key].add((file.split, file.label))
    return [file for file, key in keys.items() if len(kinds[key]) > 1]


def _timed(
    pool: ThreadPoolExecutor,
    function: Callable[[_File], R | None],
    files: Sequence[_File],
    until_s: float,
) -> tuple[dict[_File, R], Sequence[_File]]:
    """Calls a function on each file until the time limit.

    Returns:
      The values of readable files, and the files for which there was no time.
    """
    values: dict[_File, R] = {}
    for start in range(0, len(files), _BATCH):
        if time.monotonic() >= until_s:
            return values, files[start:]
        part = files[start : start + _BATCH]
        answers = zip(part, pool.map(function, part), strict=True)
        values |= {file: value for file, value in answers if value is not None}
    return values, ()


def _stat(file: _File) -> os.stat_result | None:
    try:
        found = storage.stat(file.path)
    except OSError:
        return None
    # Empty files are damaged, not duplicates. Reading a pipe would block forever.
    return found if stat.S_ISREG(found.st_mode) and found.st_size else None


def _tail(file: _File) -> bytes | None:
    def read() -> bytes:
        with storage.open_file(file.path, below=file.root) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            return _digest(stream.read(_TAIL_BYTES))

    with suppress(OSError):
        return storage.retried(read)
    return None


def _content(file: _File) -> bytes | None:
    # Read in chunks, because several large files are read at the same time.
    def read() -> bytes:
        with storage.open_file(file.path, below=file.root) as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()

    with suppress(OSError):
        return storage.retried(read)
    return None


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _place(name: str, split: Split, index: int) -> Place:
    return Place(name, int(split.labels[index]), split.name(index))
