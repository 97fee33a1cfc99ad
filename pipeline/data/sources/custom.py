"""`data.source: module:Class`: a user's data source, loaded, checked and adapted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.data.encode import to_png
from pipeline.data.split import DataSource, Split, check_labels, hold_out_by_name
from pipeline.errors import DataError, SettingsError
from pipeline.plugins import call_plugin, load_plugin

_SPLITS = ("train", "validation", "test")


class Source(Protocol):
    """Labeled images with random access. `path` is `data.path`, or None.

    Every process makes its own instance, and all of them must give the same labels and images.
    `read` is called by several threads at a time, and in any order.

    Attributes:
      classes: The names of the C classes.
      version: Text that changes when the images change. A run is not resumed with another version.
    """

    classes: Sequence[str]
    version: str

    def __init__(self, path: str | None) -> None: ...

    def labels(self, split: str) -> npt.NDArray[np.integer] | None:
        """The labels of a split, integers [N] in 0..C-1.

        Args:
          split: train, validation or test.

        Returns:
          None if there is no such split. There must be train. Without validation, a part of train
          is held out.
        """

    def read(self, split: str, index: int) -> bytes | npt.NDArray[np.uint8]:
        """One image: the bytes of an image file, or RGB pixels, uint8 [H, W, 3]."""


class CustomRecords:
    """Images of a split of a `Source`, as encoded images.

    Args:
      name: The plug-in, as `module:Class`.
      source: The source.
      split: The name of the split.
      indices: int64 [n], the places of the images in the split.
    """

    def __init__(
        self, name: str, source: Source, split: str, indices: npt.NDArray[np.int64]
    ) -> None:
        self._name, self._source, self._split, self._indices = name, source, split, indices

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def num_files(self) -> int:
        """Files that are kept open: none that are known."""
        return 0

    def read(self, indices: npt.NDArray[np.int64]) -> list[bytes]:
        """The encoded images, b"" for one that cannot be read."""
        return [self._read_or_empty(int(index)) for index in indices]

    def read_one(self, index: int) -> bytes:
        """One encoded image; DataError if the source fails."""
        place = int(self._indices[index])
        what = f"data.source: {self._name!r}: read({self._split!r}, {place})"
        found = call_plugin(DataError, f"{what} failed", self._source.read, self._split, place)
        if isinstance(found, bytes):
            return found
        if isinstance(found, np.ndarray) and found.dtype == np.uint8 and found.shape[2:] == (3,):
            return to_png(found)
        received = (
            f"{found.dtype} {list(found.shape)}"
            if isinstance(found, np.ndarray)
            else type(found).__name__
        )
        raise DataError(f"{what} must return bytes or uint8 [H, W, 3]. Received: {received}")

    def name(self, index: int) -> str:
        """What a message calls the image."""
        return f"{self._name} {self._split}[{self._indices[index]}]"

    def identity(self) -> list[bytes]:
        """The plug-in, its version, and the places of the images."""
        facts = f"{self._name}\0{self._source.version}\0{self._split}\0"
        return [facts.encode(), self._indices.astype("<i8").tobytes()]

    def marks(self) -> Iterator[bytes]:
        """The content of each image."""
        return (self.read_one(index) for index in range(len(self)))

    def take(self, indices: npt.NDArray[np.int64]) -> CustomRecords:
        """Some of the images, in the given order."""
        return CustomRecords(self._name, self._source, self._split, self._indices[indices])

    def _read_or_empty(self, index: int) -> bytes:
        try:
            return self.read_one(index)
        except DataError:
            return b""


def open_custom(config: DataConfig) -> DataSource:
    """Opens the data source that `data.source` names as `module:Class`.

    Raises:
      SettingsError: It cannot be loaded, or is not as `Source` says.
      DataError: A label is out of range, or the first image cannot be read.
    """
    name: str = config.source
    what = f"data.source: {name!r}"
    make = load_plugin("data.source", name)
    source: Source = call_plugin(SettingsError, f"{what} failed", make, config.path)
    _check(what, source)
    splits = {}
    for split in _SPLITS:
        labels = call_plugin(SettingsError, f"{what}: labels() failed", source.labels, split)
        if labels is not None:
            splits[split] = _open_split(what, name, source, split, np.asarray(labels))
    if "train" not in splits:
        raise SettingsError(f"{what}: labels('train') must return labels. Received: None")
    splits["train"].content(0)
    return DataSource(tuple(source.classes), _with_validation(splits, config))


def _check(what: str, source: Source) -> None:
    missing = [
        part for part in ("classes", "version", "labels", "read") if not hasattr(source, part)
    ]
    if missing:
        raise SettingsError(
            f"{what}: {type(source).__name__} lacks {', '.join(missing)}. A data source has "
            "classes, version, labels(split) and read(split, index)"
        )
    classes = source.classes
    if isinstance(classes, str) or not classes or not all(isinstance(c, str) for c in classes):
        raise SettingsError(f"{what}: classes must be a list of names. Received: {classes!r:.80}")
    if not isinstance(source.version, str):
        raise SettingsError(f"{what}: version must be text. Received: {source.version!r:.80}")


def _open_split(
    what: str, name: str, source: Source, split: str, labels: npt.NDArray[Any]
) -> Split:
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise SettingsError(
            f"{what}: labels({split!r}) must return integers [N]. Received: {labels.dtype} "
            f"{list(labels.shape)}"
        )
    title = f"{name}, {split}"
    records = CustomRecords(name, source, split, np.arange(len(labels)))
    return Split(check_labels(labels, len(source.classes), title), title=title, records=records)


def _with_validation(splits: dict[str, Split], config: DataConfig) -> dict[str, Split]:
    """The splits, with a part of train held out for validation if there is no validation."""
    if "validation" in splits:
        return splits
    train = splits["train"]
    names = (str(index) for index in range(train.num_examples))
    held = hold_out_by_name(names, train.labels, config, train.title)
    own = train.title.removesuffix(", train")
    return splits | {
        "train": train.select(~held, train.title),
        "validation": train.select(held, f"{own}, validation"),
    }
