"""What a data set is: labelled splits, read by index; and which examples a fixed hash holds out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Examples that can be read by index, in memory or as files.

    Attributes:
      labels: int32 [N].
      images: uint8 [N, H, W, 3], or None where the images are files.
      paths: N file names, or None where the images are in memory.
      title: What a message calls the split, for example "digits, train".
    """

    labels: npt.NDArray[np.int32]
    images: npt.NDArray[np.uint8] | None = None
    paths: Sequence[str] | None = None
    title: str = "images"

    def __post_init__(self) -> None:
        if (self.images is None) == (self.paths is None):
            raise ValueError("a Split must hold either images or paths, and not both")
        if self.images is not None:
            num, shape = len(self.images), self.images.shape
            if self.images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
                raise ValueError(
                    f"images must be uint8 [N, H, W, 3]. Received: {self.images.dtype} {shape}"
                )
        else:
            num = len(self.paths or ())
        if len(self.labels) != num:
            raise ValueError(f"{num} images must have as many labels. Got {len(self.labels)}")

    @property
    def num_examples(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """What a message calls example `index`: its file, or its place in the split."""
        return self.paths[index] if self.paths is not None else f"image {index} of {self.title}"

    def select(self, keep: npt.NDArray[np.bool_], title: str) -> Split:
        """The examples where `keep`, bool [N], is true, in the same order."""
        paths = self.paths
        return Split(
            labels=self.labels[keep],
            images=None if self.images is None else self.images[keep],
            paths=None if paths is None else [paths[i] for i in np.flatnonzero(keep).tolist()],
            title=title,
        )


@dataclass(frozen=True, eq=False)
class DataSource:
    """A data set.

    Attributes:
      classes: The class names; a label is a place in it.
      splits: "train", "validation" and, where the data set has one, "test".
      image_shape: (H, W, 3) of a set in memory; None for files, which may differ in size.
      notes: What the user should be told, a line each: files left out, for example.
    """

    classes: tuple[str, ...]
    splits: dict[str, Split]
    image_shape: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()


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
    last = {label: hashes[labels == label].max() for label in np.unique(labels).tolist()}
    lost = set(last) - set(labels[~held].tolist())
    held &= ~np.isin(hashes, np.array([last[label] for label in lost], np.uint64))
    if not held.any():
        spare = ~np.isin(hashes, np.array(list(last.values()), np.uint64))
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
