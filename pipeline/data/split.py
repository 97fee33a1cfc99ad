"""Data sets: labeled splits with random access, and the choice of validation examples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.data.paths import Paths, normalized
from pipeline.errors import DataError
from pipeline.printable import printable
from pipeline.storage.read import FileOutside, RealFolder, read_file

# Number of threads that read files: enough to hide the latency of shared storage.
_READERS = 16

Color = tuple[float, float, float]


class Records(Protocol):
    """Encoded images in shards, with random access."""

    def __len__(self) -> int: ...

    @property
    def num_files(self) -> int:
        """Number of shards. Each stays open after it was first read."""

    def read(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        """Returns the encoded images, with b"" for those that cannot be read."""

    def read_one(self, index: int) -> bytes:
        """Returns one encoded image; raises DataError if it cannot be read."""

    def name(self, index: int) -> str:
        """Returns the name of a record in messages: its file and its position."""

    def identity(self) -> list[bytes]:
        """Returns bytes that identify these records, independent of the shards' location."""

    def marks(self) -> Iterable[bytes]:
        """Yields bytes that identify the content of each record."""

    def take(self, indices: npt.NDArray[np.int64]) -> Records:
        """Returns some of the records, in the given order."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labeled examples with random access: images in memory, files, or records of shards.

    Attributes:
      labels: int32 [N].
      images: uint8 [N, H, W, 3], for a data set in memory.
      paths: N file names.
      title: Name of the split in messages, for example "digits, train".
      records: N encoded images.
      root: Files must be in this folder, after resolving links; None allows any location.
      limit_bytes: Maximum size of a file.
      known_fingerprint: The result of `fingerprint` for this split, if it was saved.
    """

    labels: npt.NDArray[np.int32]
    images: npt.NDArray[np.uint8] | None = None
    paths: Sequence[str] | None = None
    title: str = "images"
    records: Records | None = None
    root: RealFolder | None = None
    limit_bytes: int | None = None
    known_fingerprint: str | None = None

    def __post_init__(self) -> None:
        forms = [form for form in (self.images, self.paths, self.records) if form is not None]
        if len(forms) != 1:
            raise ValueError("a Split must have exactly one of images, paths and records")
        if self.images is not None:
            shape = self.images.shape
            if self.images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
                raise ValueError(
                    f"images must be uint8 [N, H, W, 3]. Received: {self.images.dtype} {shape}"
                )
        if len(self.labels) != len(forms[0]):
            raise ValueError(
                f"the number of labels must equal the number of images, {len(forms[0])}. "
                f"Received: {len(self.labels)}"
            )

    @property
    def num_examples(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Returns the name of an example in messages: its file, or its index."""
        if self.records is not None:
            return printable(self.records.name(index))
        if self.paths is not None:
            return printable(self.paths[index])
        return f"image {index} of {self.title}"

    def content(self, index: int) -> bytes:
        """Returns the encoded image of a file or record.

        Raises:
          OSError: The file cannot be read, is not a regular file, is too large, or is outside
            `root`.
          DataError: The record cannot be read.
        """
        if self.records is not None:
            return self.records.read_one(index)
        if self.paths is None:
            raise ValueError(f"{self.title} has pixels, not encoded images")
        path = self.paths[index]
        try:
            return read_file(path, below=self.root, limit_bytes=self.limit_bytes)
        except FileOutside as error:
            allow = "data.links_out=true allows links to files outside the data set"
            raise FileOutside(f"{error.strerror}; {allow}", path) from None

    def contents(self, indices: npt.NDArray[np.int64], parallel: int = 1) -> list[bytes]:
        """Returns the encoded images of files or records, with b"" for those that cannot be read.

        Args:
          indices: int64 [n].
          parallel: Number of files that are read in parallel, up to 16. For records it is always
            16.
        """
        if self.records is not None:
            return self.records.read(indices)
        parts = min(parallel, _READERS, max(1, len(indices) // 4))
        if parts == 1:
            return self._read_part(indices)
        found = _pool().map(self._read_part, np.array_split(indices, parts))
        return [content for part in found for content in part]

    def select(self, keep: npt.NDArray[np.bool_], title: str) -> Split:
        """Returns the examples where `keep`, bool [N], is true, in the same order."""
        return self.take(np.flatnonzero(keep), title)

    def take(self, indices: npt.NDArray[np.int64], title: str) -> Split:
        """Returns the examples with these indices, int64 [n], in the given order."""
        paths, records = self.paths, self.records
        return replace(
            self,
            labels=self.labels[indices],
            images=None if self.images is None else self.images[indices],
            paths=paths.take(indices) if isinstance(paths, Paths) else _taken(paths, indices),
            title=title,
            records=None if records is None else records.take(indices),
            known_fingerprint=None,
        )

    def _read_part(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        contents = []
        for index in indices.tolist():
            try:
                contents.append(self.content(index))
            except OSError:
                contents.append(b"")
        return contents


def _taken(paths: Sequence[str] | None, indices: npt.NDArray[np.int64]) -> list[str] | None:
    return None if paths is None else [paths[index] for index in indices.tolist()]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READERS, "read")


@dataclass(frozen=True, eq=False)
class DataSource:
    """A data set.

    Attributes:
      classes: The class names. A label is an index into them.
      splits: "train", "validation" and, if the data set has one, "test".
      image_shape: (H, W, 3) for a data set in memory; None for files, which may differ in size.
      notes: Notes for the user, one line each, for example about files that were left out.
      normalization: Mean and standard deviation of the training images' channels, in units of
        0..1, if they were measured when the data set was prepared.
      compared: Whether duplicates were searched for when the data set was prepared.
      first_label: The label of class 0 in TFRecord files; None if labels are names.
      folder_times: When each folder of an image folder was last modified before it was listed, in
        ns since 1970; None for other data sets, or if a folder was modified just before.
    """

    classes: tuple[str, ...]
    splits: dict[str, Split]
    image_shape: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()
    normalization: tuple[Color, Color] | None = None
    compared: bool = False
    first_label: int | None = None
    folder_times: Mapping[str, int] | None = None


def hash_all(contents: Iterable[Any], purpose: str) -> npt.NDArray[np.uint64]:
    """Returns a fixed hash of each content, uint64 [N]. Hashes for other purposes are independent.

    A content is bytes, or a contiguous array whose bytes are hashed.

    References:
      BLAKE2, RFC 7693; Python's `hash` differs from process to process.
    """
    person = purpose.encode()[:16]
    digests = bytearray()
    for content in contents:
        digests += hashlib.blake2b(content, digest_size=8, person=person).digest()
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def hold_out(
    hashes: npt.NDArray[np.uint64], labels: npt.NDArray[np.int32], fraction: float, title: str
) -> npt.NDArray[np.bool_]:
    """Chooses the examples to hold out: those whose hash is below `fraction` of its range.

    The choice depends only on the example's own hash. So it does not change when examples are
    added, and duplicates are always in the same split. There are two exceptions for small data
    sets: at least one example is held out, and a class never loses its last training example.

    Returns:
      bool [N].

    Raises:
      DataError: One of the splits would be empty.
    """
    held = hashes < np.uint64(int(fraction * 2**64))
    classes, places = np.unique(labels, return_inverse=True)
    last = np.zeros(len(classes), np.uint64)  # the largest hash of each class
    np.maximum.at(last, places, hashes)
    lost = np.bincount(places[~held], minlength=len(classes)) == 0
    held &= ~np.isin(hashes, last[lost])
    if not held.any():
        spare = ~np.isin(hashes, last)
        held = spare & (hashes == hashes[spare].min(initial=np.uint64(2**64 - 1)))
    if not held.any():
        raise DataError(
            f"{title}: {len(labels)} images of {len(last)} classes are too few to hold some out "
            "for validation. Add images, or add a validation split"
        )
    return held


def hold_out_last(num_examples: int, fraction: float) -> npt.NDArray[np.bool_]:
    """Holds out the last `fraction`, like `validation_split` in Keras; bool [N]."""
    return np.arange(num_examples) >= int(num_examples * (1.0 - fraction))


def _hold_out_last_of_each(labels: npt.NDArray[np.int32], fraction: float) -> npt.NDArray[np.bool_]:
    """Applies `hold_out_last` to each class that has more than one example; bool [N].

    It sorts once instead of searching for each class, because there may be thousands of classes.
    """
    order = np.argsort(labels, kind="stable")  # the classes one after the other
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    kept = np.where(counts > 1, (counts * (1.0 - fraction)).astype(np.int64), counts)
    place = np.arange(len(labels)) - np.repeat(first, counts)  # in its class
    held = np.zeros(len(labels), np.bool_)
    held[order] = place >= np.repeat(kept, counts)
    return held


def hold_out_by_name(
    names: Iterable[str | bytes], labels: npt.NDArray[np.int32], config: DataConfig, title: str
) -> npt.NDArray[np.bool_]:
    """Chooses the validation examples of a data set of files by their names; bool [N].

    Depending on `data.validation_split`, it uses a hash of each name or the last part of each
    class.

    Raises:
      DataError: One of the splits would be empty.
    """
    if config.validation_split == "hash":
        contents = map(normalized, names)
        return hold_out(hash_all(contents, "validation"), labels, config.validation_fraction, title)
    # Examples are sorted by class, so the last part of all would contain only the last classes.
    held = _hold_out_last_of_each(labels, config.validation_fraction)
    if not held.any():
        raise DataError(
            f"{title}: no class has two images, so none can be held out for validation. Add "
            "images, or add a validation split"
        )
    return held


def first_of_classes(labels: npt.NDArray[np.int32], most: int) -> list[int]:
    """Returns up to `most` examples: the first ones of classes spread over all classes."""
    classes = np.unique(labels)
    count = min(len(classes), most)
    chosen = classes[np.linspace(0, len(classes) - 1, count).round().astype(int)]
    first = [np.flatnonzero(labels == label)[: most // count] for label in chosen]
    return np.concatenate(first).tolist()


def check_labels(
    labels: npt.NDArray[np.integer], num_classes: int, title: str
) -> npt.NDArray[np.int32]:
    """Returns the labels as int32 [N].

    Raises:
      DataError: A label is not in [0, num_classes).
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{title}: the label of example {wrong[0]} must be in 0..{num_classes - 1}. Received: "
            f"{labels[wrong[0]]} ({len(wrong)} labels are out of range)"
        )
    return labels.astype(np.int32)
