"""Prepared data sets, written by `vit prepare`: shards, labels and dataset.json."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from array_record.python.array_record_module import ArrayRecordReader
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pipeline.config import DataConfig
from pipeline.data.sources.array_files import SUFFIX, PixelShard, read_array, read_images
from pipeline.data.sources.classes import alike_notes
from pipeline.data.sources.example import IMAGE_KEY
from pipeline.data.sources.shards import ShardRecords, allow_open_files
from pipeline.data.split import Color, DataSource, Split, check_labels
from pipeline.errors import DataError, SettingsError
from pipeline.printable import printable
from pipeline.storage.read import TRANSIENT, open_file, read_file, reason, retried, stat

FORMAT: Literal["vit-pipeline records 1"] = "vit-pipeline records 1"
FACTS = "dataset.json"

# For random access: no reading ahead, and small chunks.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:1"
_BUFFER_BYTES = 32768
_OPENERS = 32
# Upper bound for the size of a footer, in all versions.
_FOOTER_BYTES = 2**17


# The name of a file next to dataset.json. It cannot lead to another folder.
_Name = Annotated[str, StringConstraints(pattern=r"^[^/\x00]*[^/.\x00][^/\x00]*$")]


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardFacts(_Facts):
    """One file of records or of pixels.

    Attributes:
      file: File name. It ends with .npy if the file contains pixels.
      examples: Number of records or images.
      size: Size in bytes.
      sha256: SHA-256 of the file, in hexadecimal.
      inputs: Hash of the examples it was made from, in hexadecimal.
    """

    file: _Name
    examples: int = Field(ge=0)
    size: int = Field(ge=0)
    sha256: str
    inputs: str


class SplitFacts(_Facts):
    """The number of examples in a split, and their files.

    Attributes:
      examples: Number of examples.
      per_class: Number of examples of each class, by class name.
      labels: Name of the file of labels, int32 [N] in NumPy's format.
      labels_sha256: SHA-256 of that file.
      shards: The shards, in the order of the examples.
    """

    examples: int = Field(ge=0)
    per_class: dict[str, int]
    labels: _Name
    labels_sha256: str
    shards: tuple[ShardFacts, ...]


class SetFacts(_Facts):
    """The content of dataset.json.

    Attributes:
      format: Name and version of this format.
      tool: The program that wrote it.
      classes: Class names. A label is an index into them.
      mean: Mean of each channel over all pixels of the training images, in units of 0..1.
      std: Standard deviation, likewise.
      smallest: Minimum height and minimum width of the images.
      largest: Maximum height and maximum width.
      unreadable: Number of images left out; they are listed in unreadable.txt.
      repaired: Number of images that libjpeg repaired; they are listed in repaired.txt. 0 if the
        set was written by an older version, which did not count them.
      converted: Number of images stored as PNG because they were not plain JPEG or PNG.
      reduced: Number of images that were larger than `vit prepare --max-side`.
      duplicates: Number of images that are in several splits; they are listed in duplicates.txt.
      conflicts: Number of images with two labels; they are listed in conflicts.txt. None if the
        set was written by an older version, which did not look for them.
      splits: "train", "validation" and, if it exists, "test".
    """

    format: Literal["vit-pipeline records 1"]
    tool: str
    classes: tuple[str, ...]
    mean: Color
    std: Color
    smallest: tuple[int, int]
    largest: tuple[int, int]
    unreadable: int
    repaired: int = 0
    converted: int
    reduced: int = 0
    duplicates: int
    conflicts: int | None = None
    splits: dict[str, SplitFacts]


class ArrayRecordShard:
    """An open file whose records are read by number.

    Raises:
      DataError: The file cannot be opened, or has the wrong number of records.
    """

    def __init__(self, path: str, examples: int | None = None) -> None:
        self._path = path
        try:
            self._reader, found = retried(lambda: self._open_counted(examples))
        except OSError as error:
            raise DataError(f"cannot read {path}: {reason(error)}") from None
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{path} cannot be opened: {error}. Copy it again") from None
        if examples is not None and found != examples:
            raise DataError(
                f"{path} must contain {examples} records, but its footer says {found}: it is "
                "truncated or another file. Copy it again, or prepare it again"
            )

    def read(self, place: int) -> bytes:
        """Reads record number `place`; raises DataError if its checksum is wrong."""
        try:
            return retried(lambda: self._read(place))
        except OSError as error:
            raise DataError(f"cannot read it: {reason(error)}") from None
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"the file was altered: {error}") from None

    def checksum(self, place: int) -> bytes:
        """Returns b"": records have no separate checksum, but dataset.json has one per shard."""
        return b""

    def close(self) -> None:
        """Closes the file, without raising an earlier read error again."""
        with suppress(RuntimeError):
            self._reader.close()

    def _open_counted(self, examples: int | None) -> tuple[ArrayRecordReader, int]:
        reader = self._open()
        found = reader.num_records()
        if examples is not None and found != examples:
            # The library treats a footer that cannot be read as an empty one, without an error.
            with open_file(self._path) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _FOOTER_BYTES))
                file.read()
            reader = self._open()
            found = reader.num_records()
        return reader, found

    def _open(self) -> ArrayRecordReader:
        open_file(self._path).close()  # refuses a FIFO, on which the library would block
        with _system_errors():
            return ArrayRecordReader(
                self._path, _READER_OPTIONS, file_reader_buffer_size=_BUFFER_BYTES
            )

    def _read(self, place: int) -> bytes:
        try:
            with _system_errors():
                return bytes(self._reader.read([place])[0])
        except OSError:
            self._reader = self._open()  # after one error, a reader always fails
            raise


@contextmanager
def _system_errors() -> Iterator[None]:
    """Turns an error of the library into OSError if it was a transient error of the system."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        code = next((code for code in TRANSIENT if os.strerror(code) in str(error)), None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code)) from None


def open_records(config: DataConfig) -> DataSource:
    """Opens the prepared data set in `data.path`, and checks size and footer of each shard.

    Raises:
      SettingsError: `data.path` is not set.
      DataError: The folder is not a prepared data set, or one of its files is missing or damaged.
    """
    if config.path is None:
        raise SettingsError("data.source=records needs data.path=FOLDER, written by vit prepare")
    root = Path(config.path).expanduser()
    check_name(root)
    facts = read_facts(root)
    check_shards(root, [shard for split in facts.splits.values() for shard in split.shards])
    splits = {}
    for name, split in facts.splits.items():
        title = f"{root}, {name}"
        labels = check_labels(read_labels(root, split), len(facts.classes), title)
        if has_pixels(split):
            images = read_images(pixel_shards(root, split), facts.largest)
            splits[name] = Split(labels, images, title=title)
            continue
        counts = [shard.examples for shard in split.shards]
        records = ShardRecords(
            tuple(str(root / shard.file) for shard in split.shards),
            np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            np.concatenate([np.arange(count) for count in counts]),
            ArrayRecordShard,
            IMAGE_KEY,
            tuple(shard.sha256 for shard in split.shards),
        )
        splits[name] = Split(labels, title=title, records=records)
    notes = alike_notes(str(root), facts.classes)
    if facts.duplicates:
        notes += (
            (
                f"{root}: {facts.duplicates:,} images are in more than one split (duplicates.txt). "
                "Results on them do not show how well the model generalizes"
            ),
        )
    if facts.conflicts:
        notes += (f"{root}: {facts.conflicts:,} images have two labels (conflicts.txt)",)
    compared = facts.conflicts is not None
    return DataSource(facts.classes, splits, None, notes, (facts.mean, facts.std), compared)


def has_pixels(split: SplitFacts) -> bool:
    """Whether a split was written with `vit prepare --raw`."""
    return all(shard.file.endswith(SUFFIX) for shard in split.shards)


def pixel_shards(root: Path, split: SplitFacts) -> list[PixelShard]:
    """The files of such a split."""
    return [
        PixelShard(root / shard.file, shard.examples, shard.sha256)
        for shard in split.shards
        if shard.examples
    ]


def check_name(root: Path) -> None:
    """Refuses a folder that the ArrayRecord library cannot open.

    Raises:
      SettingsError: Its path is not UTF-8.
    """
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"{printable(str(root))} is not UTF-8, but ArrayRecord files need a path in UTF-8. "
            "Rename the folder, or use another one"
        ) from None


def read_facts(root: Path) -> SetFacts:
    """Reads dataset.json; raises DataError if it is missing or has another format."""
    path = root / FACTS
    try:
        return SetFacts.model_validate_json(read_file(path))
    except OSError as error:
        if not root.exists():
            raise DataError(
                f"{root} does not exist. Name a folder that `vit prepare` wrote"
            ) from None
        raise DataError(
            f"cannot read {path}: {reason(error)}. Name a folder that `vit prepare` wrote"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{path} does not have the format {FORMAT!r} ({'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}). Prepare the data again"
        ) from None


def check_shards(root: Path, shards: Sequence[ShardFacts]) -> None:
    """Checks the size and footer of every shard, without reading records.

    Raises:
      DataError: A shard is missing, truncated or another file. The message names the first one.
    """
    allow_open_files(_OPENERS)
    with ThreadPoolExecutor(_OPENERS) as pool:
        wrong = [text for text in pool.map(lambda shard: _wrong(root, shard), shards) if text]
    if wrong:
        more = f" (and {len(wrong) - 1} more shards)" if len(wrong) > 1 else ""
        raise DataError(wrong[0] + more)


def _wrong(root: Path, shard: ShardFacts) -> str | None:
    path = root / shard.file
    try:
        size = stat(path).st_size
    except OSError as error:
        return f"cannot read {path}: {reason(error)}. Copy it again"
    if size != shard.size:
        return (
            f"{path} must have {shard.size} bytes, but has {size}: it is truncated or another "
            "file. Copy it again, or prepare it again"
        )
    if shard.file.endswith(SUFFIX):
        return None
    try:
        ArrayRecordShard(str(path), shard.examples).close()
    except DataError as error:
        return str(error)
    return None


def read_labels(root: Path, split: SplitFacts) -> npt.NDArray[np.int32]:
    """Reads the labels of a split, int32 [N]; DataError if the file is missing or altered."""
    path = root / split.labels
    labels = read_array(path, split.labels_sha256)
    if labels.dtype != np.int32 or labels.shape != (split.examples,):
        raise DataError(
            f"{path} must contain {split.examples:,} int32 labels. Received: {labels.dtype} with "
            f"shape {labels.shape}. Prepare the data again"
        )
    return labels
