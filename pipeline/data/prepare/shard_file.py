"""Writes one shard: decodes, measures and stores its examples, and writes a report."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.data.decode.pillow_image import too_little_memory
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.encode import Encoded, Reduction, encode_image, reduce, to_png
from pipeline.data.prepare.shard_writers import PixelWriter, RecordWriter
from pipeline.data.split import Split
from pipeline.errors import DataError
from pipeline.storage.folders import written_beside
from pipeline.storage.limits import REPORT_BYTES
from pipeline.storage.read import open_file, read_file, reason, stat
from pipeline.storage.write import replace_file


@dataclass(frozen=True)
class ShardTask:
    """The inputs of one shard.

    Attributes:
      split_name: The name of its split.
      first: Index of its first example in the split.
      file: The output file.
      reports: Folder for reports of finished shards.
      split: Its examples.
      max_pixels: Images that declare more are not read.
      reduction: How large images are reduced; None keeps their size.
      raw: Whether to store pixels instead of encoded images.
    """

    split_name: str
    first: int
    file: Path
    reports: Path
    split: Split
    max_pixels: int
    reduction: Reduction | None = None
    raw: bool = False

    @property
    def report(self) -> Path:
        return self.reports / f"{self.file.name}.json"

    @property
    def inputs(self) -> str:
        """A hash of everything that determines the file, except `max_pixels`."""
        inputs = inputs_of(self.split)
        form = "raw" if self.raw else self.reduction
        if form is None:
            return inputs
        digest = hashlib.blake2b(f"{inputs} {form}".encode(), digest_size=16)
        return digest.hexdigest()

    def name(self, place: int) -> str:
        """Returns the name of an example in lists."""
        if self.split.images is not None:
            return f"image {self.first + place} of {self.split.title}"
        return self.split.name(place)


class ShardReport(BaseModel):
    """The report of a finished shard. It is kept until all shards are finished.

    Attributes:
      inputs: The `inputs` of its task.
      max_pixels: Images that declared more were not read.
      size: Size of the file in bytes.
      sha256: SHA-256 of the file.
      labels: Labels of the examples in the shard.
      names: Names of these examples.
      contents: A hash of the pixels of each example.
      unreadable: Name and reason of images that were left out.
      repaired: Name and libjpeg's warning of images that libjpeg repaired.
      converted: Number of examples that were converted to PNG.
      reduced: Number of examples that were reduced.
      histogram: Histogram of each channel, 3 x 256.
      smallest: Minimum height and minimum width.
      largest: Maximum height and maximum width.
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
    reduced: int
    histogram: list[list[int]]
    smallest: tuple[int, int]
    largest: tuple[int, int]


def write_shard(task: ShardTask) -> ShardReport:
    """Writes a shard and its report. Each is renamed to its final name when it is complete.

    Raises:
      DataError: The folder cannot be written to, or the disk is full.
    """
    try:
        with written_beside(task.file) as path:
            return _write(task, path)
    except (OSError, RuntimeError) as error:  # ArrayRecordWriter raises RuntimeError
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        raise DataError(
            f"cannot write {task.file}: {reason}. Free some space or name another folder, and "
            "run the command again; finished shards are kept"
        ) from None


def read_report(task: ShardTask) -> ShardReport | None:
    """Returns the report of an earlier attempt if its shard is complete and has the same inputs."""
    try:
        report = ShardReport.model_validate_json(read_file(task.report, limit_bytes=REPORT_BYTES))
        whole = task.file.stat().st_size == report.size and hash_file(task.file) == report.sha256
    except (OSError, ValidationError):
        return None
    same = (report.inputs, report.max_pixels) == (task.inputs, task.max_pixels)
    return report if whole and same else None


def inputs_of(split: Split) -> str:
    """Returns a hash of the labels and of what identifies the examples.

    These are pixels in memory, names, sizes and modification times of files, or names and stored
    checksums of records.
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
    """Returns the SHA-256 of a file in hexadecimal."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(task: ShardTask, path: Path) -> ShardReport:
    measures = _Measures()
    writer = PixelWriter(path) if task.raw else RecordWriter(path)
    for place in range(task.split.num_examples):
        name, label = task.name(place), int(task.split.labels[place])
        try:
            image = _read(task, place)
        except UnreadableError as error:
            measures.unreadable[name] = str(error)
            continue
        except MemoryError:
            raise DataError(too_little_memory(name)) from None
        writer.write(image, label, name)
        measures.add(image, label, name)
    writer.close()
    _sync(path)
    report = measures.report(task, path)
    # Write the report before the shard is renamed. `read_report` ignores a report without a shard.
    # But a shard without a report would never be removed if the next attempt has other shards.
    replace_file(task.report, report.model_dump_json(), below=task.file.parent)
    return report


class _Measures:
    """Collects statistics of a shard's images."""

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}
        self._repaired: dict[str, str] = {}
        self._labels: list[int] = []
        self._names: list[str] = []
        self._contents: list[str] = []
        self._converted = self._reduced = 0
        self._histogram = np.zeros((3, 256), np.int64)
        self._shapes: list[tuple[int, ...]] = []

    def add(self, image: Encoded, label: int, name: str) -> None:
        self._labels.append(label)
        self._names.append(name)
        self._contents.append(_hash_pixels(image.pixels))
        self._converted += image.converted
        self._reduced += image.reduced
        if image.warning is not None:
            self._repaired[name] = image.warning
        self._shapes.append(image.pixels.shape[:2])
        for color in range(3):
            values = image.pixels[..., color].reshape(-1)
            self._histogram[color] += np.bincount(values, minlength=256)

    def report(self, task: ShardTask, file: Path) -> ShardReport:
        shapes = np.array(self._shapes or [(0, 0)])
        return ShardReport(
            inputs=task.inputs,
            max_pixels=task.max_pixels,
            size=file.stat().st_size,
            sha256=hash_file(file),
            labels=self._labels,
            names=self._names,
            contents=self._contents,
            unreadable=self.unreadable,
            repaired=self._repaired,
            converted=self._converted,
            reduced=self._reduced,
            histogram=self._histogram.tolist(),
            smallest=tuple(shapes.min(axis=0).tolist()),
            largest=tuple(shapes.max(axis=0).tolist()),
        )


def _read(task: ShardTask, place: int) -> Encoded:
    split, reduction = task.split, task.reduction
    if split.images is not None:
        pixels = split.images[place]
        if task.raw:
            return Encoded(b"", pixels, converted=False)
        if reduction is not None and max(pixels.shape[:2]) > reduction.max_side:
            return reduce(pixels, reduction)
        return Encoded(to_png(pixels), pixels, converted=False)
    try:
        image = encode_image(split.content(place), task.max_pixels, reduction)
        return image._replace(converted=False) if task.raw else image
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
