"""What a data set is: labelled splits, read by index; and which examples a fixed hash holds out."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.errors import DataError
from pipeline.printable import printable
from pipeline.storage.read import FileOutside, RealFolder, read_file

# Files read side by side: enough to hide the latency of shared storage.
_READERS = 16

Colour = tuple[float, float, float]


class Records(Protocol):
    """Encoded images in shards, read by index."""

    def __len__(self) -> int: ...

    @property
    def num_files(self) -> int:
        """Shards, each of which is kept open once it was read."""

    def read(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        """The images' bytes, b"" for one that cannot be read."""

    def read_one(self, index: int) -> bytes:
        """One image's bytes; DataError where it cannot be read."""

    def name(self, index: int) -> str:
        """What a message calls the record: its file, and its place in it."""

    def identity(self) -> list[bytes]:
        """What tells these records from others, independent of where the shards are."""

    def marks(self) -> Iterable[bytes]:
        """Of each record, what tells its content from another's."""

    def take(self, indices: npt.NDArray[np.int64]) -> Records:
        """Some of the records, in the order given."""


@dataclass(frozen=True, eq=False)
class Split:
    """Examples that can be read by index, in memory, as files or as records of shards.

    Attributes:
      labels: int32 [N].
      images: uint8 [N, H, W, 3] of a set in memory.
      paths: N file names.
      title: What a message calls the split, for example "digits, train".
      records: N encoded images.
      root: Files must be in this folder once links are resolved; None: they may be anywhere.
      limit_bytes: Larger files are not read.
    """

    labels: npt.NDArray[np.int32]
    images: npt.NDArray[np.uint8] | None = None
    paths: Sequence[str] | None = None
    title: str = "images"
    records: Records | None = None
    root: RealFolder | None = None
    limit_bytes: int | None = None

    def __post_init__(self) -> None:
        forms = [form for form in (self.images, self.paths, self.records) if form is not None]
        if len(forms) != 1:
            raise ValueError("a Split must hold images, paths or records, and one of them only")
        if self.images is not None:
            shape = self.images.shape
            if self.images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
                raise ValueError(
                    f"images must be uint8 [N, H, W, 3]. Received: {self.images.dtype} {shape}"
                )
        if len(self.labels) != len(forms[0]):
            raise ValueError(
                f"{len(forms[0])} images must have as many labels. Got {len(self.labels)}"
            )

    @property
    def num_examples(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What a message calls example `index`: its file as printable text, or its place."""
        if self.records is not None:
            return printable(self.records.name(index))
        if self.paths is not None:
            return printable(self.paths[index])
        return f"image {index} of {self.title}"

    def content(self, index: int) -> bytes:
        """The encoded image of a file or record.

        Raises:
          OSError: The file cannot be read, is no regular file, too large, or outside `root`.
          DataError: The record cannot.
        """
        if self.records is not None:
            return self.records.read_one(index)
        if self.paths is None:
            raise ValueError(f"{self.title} holds pixels, not encoded images")
        path = self.paths[index]
        try:
            return read_file(path, below=self.root, limit_bytes=self.limit_bytes)
        except FileOutside as error:
            allow = "data.links_out=true allows links out of the data set"
            raise FileOutside(f"{error.strerror}; {allow}", path) from None

    def contents(self, indices: npt.NDArray[np.int64], parallel: int = 1) -> list[bytes]:
        """The encoded images of files or records, b"" for one that cannot be read.

        Args:
          indices: int64 [n].
          parallel: Files that are read at a time, up to 16; records are read 16 at a time.
        """
        if self.records is not None:
            return self.records.read(indices)
        parts = min(parallel, _READERS, max(1, len(indices) // 4))
        if parts == 1:
            return self._read_part(indices)
        found = _pool().map(self._read_part, np.array_split(indices, parts))
        return [content for part in found for content in part]

    def select(self, keep: npt.NDArray[np.bool_], title: str) -> Split:
        """The examples where `keep`, bool [N], is true, in the same order."""
        return self.take(np.flatnonzero(keep), title)

    def take(self, indices: npt.NDArray[np.int64], title: str) -> Split:
        """Some of the examples, int64 [n], in the order given."""
        paths, records = self.paths, self.records
        return replace(
            self,
            labels=self.labels[indices],
            images=None if self.images is None else self.images[indices],
            paths=None if paths is None else [paths[i] for i in indices.tolist()],
            title=title,
            records=None if records is None else records.take(indices),
        )

    def _read_part(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        contents = []
        for index in indices.tolist():
            try:
                contents.append(self.content(index))
            except OSError:
                contents.append(b"")
        return contents


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READERS, "read")


@dataclass(frozen=True, eq=False)
class DataSource:
    """A data set.

    Attributes:
      classes: The class names; a label is a place in it.
      splits: "train", "validation" and, where the data set has one, "test".
      image_shape: (H, W, 3) of a set in memory; None for files, which may differ in size.
      notes: What the user should be told, a line each: files left out, for example.
      normalization: Mean and deviation of the training images' colours, in units of 0..1, where
        they were measured when the set was made.
      compared: Whether equal images in two splits and under two labels were looked for when the
        set was made.
      first_label: The label that is class 0 in TFRecord files; None where labels are names.
    """

    classes: tuple[str, ...]
    splits: dict[str, Split]
    image_shape: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()
    normalization: tuple[Colour, Colour] | None = None
    compared: bool = False
    first_label: int | None = None


def hash_all(contents: Iterable[Any], purpose: str) -> npt.NDArray[np.uint64]:
    """A fixed hash of each content, uint64 [N]; other purposes give independent hashes.

    A content is bytes, or a contiguous array, whose bytes are meant.

    References:
      BLAKE2, RFC 7693; Python's `hash` differs from process to process.
    """
    person = purpose.encode()[:16]
    digests = b"".join(
        hashlib.blake2b(content, digest_size=8, person=person).digest() for content in contents
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def hold_out(
    hashes: npt.NDArray[np.uint64], labels: npt.NDArray[np.int32], fraction: float, title: str
) -> npt.NDArray[np.bool_]:
    """Which examples are held out: those whose hash is below `fraction` of its range.

    An example's side depends on nothing but its own hash, so it stays where it is when others are
    added, and equal hashes (duplicates) share a side. Two exceptions keep small sets usable: at
    least one example is held out, and a class never loses its last training example.

    Returns:
      bool [N].

    Raises:
      DataError: Nothing would be left on one of the sides.
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
            "for validation. Add images, or give the data set a validation split"
        )
    return held


def hold_out_last(num_examples: int, fraction: float) -> npt.NDArray[np.bool_]:
    """Holds out the last `fraction`, as Keras's `validation_split` does; bool [N]."""
    return np.arange(num_examples) >= int(num_examples * (1.0 - fraction))


def _hold_out_last_of_each(labels: npt.NDArray[np.int32], fraction: float) -> npt.NDArray[np.bool_]:
    """`hold_out_last` of each class that has more than one example; bool [N].

    One sort instead of a search for each class, of which there may be tens of thousands.
    """
    order = np.argsort(labels, kind="stable")  # the classes one after the other
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    kept = np.where(counts > 1, (counts * (1.0 - fraction)).astype(np.int64), counts)
    place = np.arange(len(labels)) - np.repeat(first, counts)  # in its class
    held = np.zeros(len(labels), np.bool_)
    held[order] = place >= np.repeat(kept, counts)
    return held


def hold_out_by_name(
    names: Iterable[str], labels: npt.NDArray[np.int32], config: DataConfig, title: str
) -> npt.NDArray[np.bool_]:
    """Which examples are held out for validation where only names tell them apart; bool [N].

    By a hash of each name, or the last part of each class, as `data.validation_split` says.

    Raises:
      DataError: Nothing would be left on one of the sides.
    """
    if config.validation_split == "hash":
        # NFC: the same name hashes alike on file systems that store accents in another form.
        contents = (os.fsencode(unicodedata.normalize("NFC", name)) for name in names)
        return hold_out(hash_all(contents, "validation"), labels, config.validation_fraction, title)
    # The examples are sorted by class: the last part of all would be the last classes only.
    held = _hold_out_last_of_each(labels, config.validation_fraction)
    if not held.any():
        raise DataError(
            f"{title}: no class has two images, so none can be held out for validation. Add "
            "images, or a validation split"
        )
    return held


def first_of_classes(labels: npt.NDArray[np.int32], most: int) -> list[int]:
    """The first example, or the first few, of up to `most` classes spread over all of them."""
    classes = np.unique(labels)
    count = min(len(classes), most)
    chosen = classes[np.linspace(0, len(classes) - 1, count).round().astype(int)]
    first = [np.flatnonzero(labels == label)[: most // count] for label in chosen]
    return np.concatenate(first).tolist()


def check_labels(
    labels: npt.NDArray[np.integer], num_classes: int, title: str
) -> npt.NDArray[np.int32]:
    """The labels as int32 [N].

    Raises:
      DataError: One is not in [0, num_classes).
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{title}: the label of example {wrong[0]} must be in 0..{num_classes - 1}. Received: "
            f"{labels[wrong[0]]} ({len(wrong)} labels are out of range)"
        )
    return labels.astype(np.int32)
