"""One shard written: its examples decoded, measured, stored, and reported."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from array_record.python.array_record_module import ArrayRecordWriter
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.data.decode.pillow_image import too_little_memory
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.encode import Encoded, encode_image, to_png
from pipeline.data.sources.example import encode_example
from pipeline.data.split import Split
from pipeline.errors import DataError
from pipeline.storage.folders import written_beside
from pipeline.storage.limits import REPORT_BYTES
from pipeline.storage.read import open_file, read_file, reason, stat
from pipeline.storage.write import replace_file

# A record a chunk, so that one is read without its neighbours; JPEG and PNG do not compress.
_WRITER_OPTIONS = "group_size:1,uncompressed"


@dataclass(frozen=True)
class ShardTask:
    """What one shard is to be made from.

    Attributes:
      split_name: The split it belongs to.
      first: Place of its first example in the split.
      file: To be written.
      reports: Folder of the reports on shards that are done.
      split: Its examples.
      max_pixels: Images that state more are not read.
    """

    split_name: str
    first: int
    file: Path
    reports: Path
    split: Split
    max_pixels: int

    @property
    def report(self) -> Path:
        return self.reports / f"{self.file.name}.json"

    def name(self, place: int) -> str:
        """What an example is called, as a list of names holds it."""
        if self.split.images is not None:
            return f"image {self.first + place} of {self.split.title}"
        return self.split.name(place)


class ShardReport(BaseModel):
    """What became of a shard; kept beside it until all are done.

    Attributes:
      inputs: `inputs_of` its examples.
      max_pixels: Images that stated more were not read.
      size: In bytes.
      sha256: Of its bytes.
      labels: Of the examples it holds.
      names: Likewise.
      contents: A hash of each one's pixels.
      unreadable: Name and reason of those it does not hold.
      repaired: Name, and libjpeg's warning, of those whose damaged data it repaired.
      converted: Examples stored as PNG that came as something else.
      histogram: How often each value occurs in each colour, 3 x 256.
      smallest: Least height and least width.
      largest: Greatest height and width.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: str
    max_pixels: int
    size: int
    sha256: str
    labels: list[int]
    names: list[str]
    contents: list[str]
    unreadable: dict[str, str]
    repaired: dict[str, str]
    converted: int
    histogram: list[list[int]]
    smallest: tuple[int, int]
    largest: tuple[int, int]


def write_shard(task: ShardTask) -> ShardReport:
    """Writes a shard and its report, each beside its final name and renamed when whole.

    Raises:
      DataError: The folder cannot be written to, or is full.
    """
    try:
        with written_beside(task.file) as path:
            return _write(task, path)
    except (OSError, RuntimeError) as error:  # the writer's own errors are RuntimeErrors
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        raise DataError(
            f"cannot write {task.file}: {reason}. Make room there or name another folder, and "
            "give the command again: what is done stays done"
        ) from None


def read_report(task: ShardTask) -> ShardReport | None:
    """An earlier attempt's report, where the shard is whole and of the same examples; else None."""
    try:
        report = ShardReport.model_validate_json(read_file(task.report, limit_bytes=REPORT_BYTES))
        whole = task.file.stat().st_size == report.size and hash_file(task.file) == report.sha256
    except (OSError, ValidationError):
        return None
    same = (report.inputs, report.max_pixels) == (inputs_of(task.split), task.max_pixels)
    return report if whole and same else None


def inputs_of(split: Split) -> str:
    """A hash of what the examples are: pixels, names, sizes and times of files, or names and stored
    checksums of records; and labels.
    """
    digest = hashlib.blake2b(split.labels.tobytes(), digest_size=16)
    if split.images is not None:
        digest.update(split.images.tobytes())
        return digest.hexdigest()
    for mark in () if split.records is None else split.records.marks():
        digest.update(mark)
    for place in range(split.num_examples):
        name = split.name(place) if split.paths is None else split.paths[place]
        digest.update(os.fsencode(name))
        if split.paths is not None:
            try:
                found = stat(name)
                digest.update(f"\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
            except OSError:
                digest.update(b"\0missing\0")
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(task: ShardTask, path: Path) -> ShardReport:
    measures = _Measures()
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    for place in range(task.split.num_examples):
        name, label = task.name(place), int(task.split.labels[place])
        try:
            image = _read(task.split, place, task.max_pixels)
        except UnreadableError as error:
            measures.unreadable[name] = str(error)
            continue
        except MemoryError:
            raise DataError(too_little_memory(name)) from None
        writer.write(encode_example(image.content, label, os.path.basename(name)))
        measures.add(image, label, name)
    writer.close()
    _sync(path)
    report = measures.report(task, path)
    # The report first: `read_report` ignores one of a shard that is not there, but a shard
    # without a report would never be removed, where the next attempt has other shards.
    replace_file(task.report, report.model_dump_json(), below=task.file.parent)
    return report


class _Measures:
    """What is learned of a shard's images on the way."""

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}
        self._repaired: dict[str, str] = {}
        self._labels: list[int] = []
        self._names: list[str] = []
        self._contents: list[str] = []
        self._converted = 0
        self._histogram = np.zeros((3, 256), np.int64)
        self._shapes: list[tuple[int, ...]] = []

    def add(self, image: Encoded, label: int, name: str) -> None:
        self._labels.append(label)
        self._names.append(name)
        self._contents.append(_hash_pixels(image.pixels))
        self._converted += image.converted
        if image.warning is not None:
            self._repaired[name] = image.warning
        self._shapes.append(image.pixels.shape[:2])
        for color in range(3):
            values = image.pixels[..., color].reshape(-1)
            self._histogram[color] += np.bincount(values, minlength=256)

    def report(self, task: ShardTask, file: Path) -> ShardReport:
        shapes = np.array(self._shapes or [(0, 0)])
        return ShardReport(
            inputs=inputs_of(task.split),
            max_pixels=task.max_pixels,
            size=file.stat().st_size,
            sha256=hash_file(file),
            labels=self._labels,
            names=self._names,
            contents=self._contents,
            unreadable=self.unreadable,
            repaired=self._repaired,
            converted=self._converted,
            histogram=self._histogram.tolist(),
            smallest=tuple(shapes.min(axis=0).tolist()),
            largest=tuple(shapes.max(axis=0).tolist()),
        )


def _read(split: Split, place: int, max_pixels: int) -> Encoded:
    if split.images is not None:
        pixels = split.images[place]
        return Encoded(to_png(pixels), pixels, converted=False)
    try:
        return encode_image(split.content(place), max_pixels)
    except OSError as error:
        raise UnreadableError(reason(error)) from None
    except DataError as error:
        raise UnreadableError(str(error)) from None


def _hash_pixels(pixels: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=12)
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
