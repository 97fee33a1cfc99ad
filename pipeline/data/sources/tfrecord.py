"""TFRecord files of tf.Examples, with random access through an index that is built once.

References:
  The format: tensorflow/core/lib/io/record_writer.h. A record is stored as its length (uint64), the
  masked CRC-32C of the length (uint32), the data, and the masked CRC-32C of the data, all
  little-endian.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import mmap
import os
import re
import struct
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.cores import available_cores
from pipeline.data.sources.classes import alike_notes
from pipeline.data.sources.example import bytes_feature, int_feature
from pipeline.data.sources.label_names import class_names
from pipeline.data.sources.shards import ShardRecords
from pipeline.data.split import DataSource, Split, check_labels, hold_out_by_name
from pipeline.errors import DataError, SettingsError
from pipeline.printable import printable
from pipeline.storage.folders import make_folder
from pipeline.storage.npz import read_npz
from pipeline.storage.read import open_descriptor, open_file, read_at, reason, retried, stat
from pipeline.storage.write import replace_file

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")

# Number of records whose stored checksum is compared at each start: two small reads per record.
_SAMPLED = 1024
_READERS = 32

# Memory of an index in bytes: per record, and for the headers.
_INDEX_BYTES, _INDEX_HEADERS_BYTES = 4 + 8 + 8 + 4, 4096

_SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_IS_SHARD = re.compile(r"\.tfrecords?\b|-\d{5}-of-\d{5}$")
_OF = re.compile(r"^(.*)-(\d{5})-of-(\d{5})$")
_COMPRESSED = (b"\x1f\x8b", b"\x78\x9c", b"\x78\x01", b"\x78\xda")


# Offsets, sizes and checksums: int64 [n], int64 [n], uint32 [n].
_Scanned = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint32]]


class Index(NamedTuple):
    """The positions of the records of a split.

    Attributes:
      shard: int32 [N], index of the file.
      start: int64 [N], first byte of the record in the file.
      labels: int64 [N], labels as stored in the records.
      checksums: uint32 [N], the stored checksum of each record.
    """

    shard: npt.NDArray[np.int32]
    start: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]


class TFRecordShard:
    """An open file, whose records are read by their first byte."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._open()
        except OSError as error:
            raise DataError(f"cannot read {path}: {reason(error)}") from None

    def read(self, place: int) -> bytes:
        """Reads the record that starts at byte `place`; DataError if its checksum is wrong."""
        try:
            length, record = retried(lambda: self._read(place))
        except OSError as error:
            raise DataError(f"cannot read it: {reason(error)}") from None
        except (ValueError, struct.error):
            raise DataError("the file was altered: the record's length is wrong") from None
        content, checksum = record[:length], record[length:]
        if len(checksum) != _FOOTER.size or _FOOTER.unpack(checksum)[0] != _masked_crc(content):
            raise DataError("the file was altered: the record's checksum is wrong")
        return content

    def checksum(self, place: int) -> bytes:
        """Returns the stored checksum of the record that starts at byte `place`.

        Returns b"" if there is no record.
        """
        try:
            return retried(lambda: self._read(place, content=False))[1]
        except OSError as error:
            raise DataError(f"cannot read {self._path}: {reason(error)}") from None
        except (ValueError, struct.error):
            return b""

    def _open(self) -> None:
        self._file, _ = retried(lambda: open_descriptor(self._path))
        weakref.finalize(self, os.close, self._file)

    def _read(self, place: int, content: bool = True) -> tuple[int, bytes]:
        """Returns a record's length, and the record with its checksum or only the checksum."""
        file = self._file  # another thread may reopen it
        try:
            length = _length(read_at(file, _HEADER.size, place))
            if length > os.fstat(file).st_size - place:
                raise ValueError("the record is longer than its file")
            size, start = length + _FOOTER.size, place + _HEADER.size
            if not content:
                size, start = _FOOTER.size, start + length
            return length, read_at(file, size, start)
        except OSError as error:
            if error.errno == errno.ESTALE:
                self._open()
            raise


def is_tfrecord(path: Path) -> bool:
    """Whether a path is a file with the name of a TFRecord shard."""
    return bool(_IS_SHARD.search(path.name)) and path.is_file()


def scan_tfrecord(config: DataConfig) -> dict[str, Any]:
    """Scans the files of each split on behalf of other processes.

    Returns:
      The files with their sizes, and the index, as a value that can be written as JSON.

    Raises:
      SettingsError, DataError: As for `open_tfrecord`.
    """
    root = _root(config)
    return {
        name: {
            "files": _sizes(root, paths),
            "index": _packed(_index(root, name, paths, config)),
        }
        for name, paths in _find_files(root).items()
    }


def open_tfrecord(config: DataConfig, scanned: dict[str, Any] | None = None) -> DataSource:
    """Opens the TFRecord files in `data.path`, with train, validation or test in their paths.

    Args:
      config: The data settings.
      scanned: The result of `scan_tfrecord` in another process; None to read or build the index
        here.

    Raises:
      SettingsError: `data.path` is not set.
      DataError: There are no files, a file is missing, compressed or truncated, or the records
        lack a feature.
    """
    root = _root(config)
    files = _find_files(root)
    if scanned is None:
        indexes = {name: _index(root, name, paths, config) for name, paths in files.items()}
    else:
        _check_files(root, files, scanned)
        sizes = {name: tuple(scanned[name]["files"].values()) for name in files}
        indexes = {name: _unpacked(scanned[name]["index"], sizes[name]) for name in files}
        for name, paths in files.items():
            changed = _find_changed(paths, indexes[name])
            if changed is not None:
                raise DataError(
                    f"{printable(str(changed))} has different records here than on rank 0. All "
                    "hosts need the same files"
                )
    lowest = min(int(index.labels.min()) for index in indexes.values())
    highest = max(int(index.labels.max()) for index in indexes.values())
    classes, first = class_names(root, lowest, highest, config.first_label)
    notes = alike_notes(str(root), classes)
    if first:
        notes += (f"{root}: label {first} is class 0, so {first} is subtracted from each label",)
    splits = {
        name: Split(
            check_labels(index.labels - first, len(classes), f"{root}, {name}"),
            title=f"{root}, {name}",
            records=ShardRecords(
                tuple(map(str, files[name])), index.shard, index.start,
                TFRecordShard, config.tfrecord_image_key,
            ),
        )
        for name, index in indexes.items()
    }  # fmt: skip
    if "validation" not in splits:
        splits |= _held_out(splits["train"], files["train"], indexes["train"], config, str(root))
    return DataSource(classes, splits, None, notes, first_label=first)


def _root(config: DataConfig) -> Path:
    if config.path is None:
        raise SettingsError("data.source=tfrecord needs data.path=FOLDER, with TFRecord files")
    return Path(config.path).expanduser()


def _sizes(root: Path, paths: Sequence[Path]) -> dict[str, int]:
    return {str(path.relative_to(root)): stat(path).st_size for path in paths}


def _check_files(root: Path, files: dict[str, list[Path]], scanned: dict[str, Any]) -> None:
    """Refuses files that differ from those for which the index was built."""
    own = {name: _sizes(root, paths) for name, paths in files.items()}
    there = {name: split["files"] for name, split in scanned.items()}
    if own != there:
        mine, theirs = (
            {file: size for split in sizes.values() for file, size in split.items()}
            for sizes in (own, there)
        )
        file = min(f for f in mine.keys() | theirs.keys() if mine.get(f) != theirs.get(f))
        here, chief = (
            "is missing" if size is None else f"has {size:,} bytes"
            for size in (mine.get(file), theirs.get(file))
        )
        raise DataError(
            f"{printable(str(root / file))} {here} here and {chief} on rank 0. All hosts need the "
            "same files"
        )


def _packed(index: Index) -> str:
    stream = io.BytesIO()
    # Differences are small numbers, which compress well. Checksums do not, so only those are sent
    # that the other processes compare.
    np.savez_compressed(
        stream,
        shard=index.shard,
        start=np.diff(index.start, prepend=0),
        labels=index.labels,
        checksums=index.checksums[_sampled(index.shard)],
    )
    return base64.b64encode(stream.getvalue()).decode()


def _unpacked(text: str, sizes: Sequence[int]) -> Index:
    """Reverses `_packed`, for files of these sizes in bytes."""
    arrays = read_npz(io.BytesIO(base64.b64decode(text)), _most_index_bytes(sizes))
    shard = arrays["shard"]
    checksums = np.zeros(len(shard), np.uint32)
    checksums[_sampled(shard)] = arrays["checksums"]
    return Index(shard, np.cumsum(arrays["start"]), arrays["labels"], checksums)


def _read_index(kept: Path, sizes: Sequence[int]) -> Index:
    """Reads an index that `_keep` wrote, for shards of these sizes in bytes.

    Raises:
      OSError: The file is missing or cannot be read.
      ValueError: The index is damaged, or refers to records that the shards cannot have.
    """
    with open_file(kept) as file:
        arrays = read_npz(file, _most_index_bytes(sizes))
    if arrays.keys() != set(Index._fields):
        raise ValueError("its arrays are not those of an index")
    index = Index(**arrays)
    kinds = {"shard": np.int32, "start": np.int64, "labels": np.int64, "checksums": np.uint32}
    for name, array in arrays.items():
        if array.dtype != kinds[name] or array.shape != (len(index.shard),) or not len(array):
            raise ValueError(f"its {name} are not valid")
    if np.any(np.diff(index.shard, prepend=0) < 0) or index.shard[-1] >= len(sizes):
        raise ValueError("it refers to shards that do not exist")
    if index.start.min() < 0 or np.any(index.start >= np.asarray(sizes)[index.shard]):
        raise ValueError("it refers to records after the end of a shard")
    return index


def _most_index_bytes(sizes: Sequence[int]) -> int:
    """Returns the memory of an index of the most (empty) records that fit in the files."""
    records = sum(sizes) // (_HEADER.size + _FOOTER.size)
    return records * _INDEX_BYTES + _INDEX_HEADERS_BYTES


def _held_out(
    train: Split, files: Sequence[Path], index: Index, config: DataConfig, title: str
) -> dict[str, Split]:
    names = (f"{files[s].name}:{p}" for s, p in zip(index.shard, index.start, strict=True))
    held = hold_out_by_name(names, train.labels, config, title)
    return {
        "train": train.select(~held, train.title),
        "validation": train.select(held, f"{title}, validation"),
    }


def _find_files(root: Path) -> dict[str, list[Path]]:
    """Returns the shards of each split, sorted by name."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Set data.path to a folder with TFRecord files")
    splits: dict[str, list[Path]] = {}
    for path in sorted(path for path in root.rglob("*") if is_tfrecord(path)):
        words = re.split(r"[^a-z]+", str(path.relative_to(root)).lower())
        names = {_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES}
        if len(names) != 1:
            raise DataError(
                f"{path}: its name or folder must contain one of train, validation (or val) and "
                "test"
            )
        splits.setdefault(names.pop(), []).append(path)
    if "train" not in splits:
        raise DataError(
            f"{root} has no training shards. Expected names like train-00000-of-01024 or "
            "train/any.tfrecord"
        )
    for paths in splits.values():
        _check_complete(paths)
    return splits


def _check_complete(paths: Sequence[Path]) -> None:
    """Checks that all shards exist if their names state the number of shards."""
    found: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if match := _OF.match(str(path)):
            found.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, count), numbers in found.items():
        if missing := sorted(set(range(count)) - numbers):
            raise DataError(
                f"{len(missing)} of {count} shards are missing, the first is "
                f"{stem}-{missing[0]:05d}-of-{count:05d}"
            )


def _index(root: Path, split: str, paths: Sequence[Path], config: DataConfig) -> Index:
    """Returns the saved index, or builds a new one and saves it if possible.

    A saved index is valid for files with the same names, sizes and times. The inode change time
    (ctime) detects a file that was rewritten with the same size and modification time. Not all file
    systems keep it, so the stored checksums of a sample of records are compared as well: the first
    and last record of each file, and some in between. So a file with other records is always
    detected. If single records are replaced on a file system without ctime, this may not be
    detected, and the labels are then those of the saved index.
    """
    stats = [stat(path) for path in paths]
    keys = config.tfrecord_label_key, config.tfrecord_image_key
    facts = [str(path.relative_to(root)) for path in paths], keys
    state = [(one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in stats]
    key = hashlib.blake2b(repr((facts, state)).encode(), digest_size=8).hexdigest()
    folder = root if config.index_path is None else Path(config.index_path).expanduser()
    kept = folder / f".vit-index-{split}-{key}.npz"
    with suppress(OSError, ValueError):
        index = _read_index(kept, [one.st_size for one in stats])
        if _find_changed(paths, index) is None:
            return index
    with ThreadPoolExecutor(available_cores()) as pool:
        parts = list(pool.map(lambda path: scan(path, *keys), paths))
    counts = [len(part[0]) for part in parts]
    index = Index(
        np.repeat(np.arange(len(paths), dtype=np.int32), counts),
        *(np.concatenate(column) for column in zip(*parts, strict=True)),
    )
    if not len(index.start):
        raise DataError(f"{root}: the {split} shards contain no records")
    with suppress(OSError):  # if the folder is read-only, the files are scanned again next time
        _keep(kept, index)
    return index


def _find_changed(paths: Sequence[Path], index: Index) -> Path | None:
    """Returns the first file whose sampled records differ from the index."""
    sampled = _sampled(index.shard)

    def differs(number: int) -> bool:
        shard = TFRecordShard(str(paths[number]))
        return any(
            shard.checksum(int(index.start[place])) != _FOOTER.pack(index.checksums[place])
            for place in sampled[index.shard[sampled] == number]
        )

    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(differs, range(len(paths))))
    return next((path for path, wrong in zip(paths, found, strict=True) if wrong), None)


def _sampled(shard: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Returns the first and last record of each file, and others spread over all; int64 [n].

    Args:
      shard: int32 [N], the file of each record. The records of a file are contiguous.
    """
    first = np.flatnonzero(np.diff(shard, prepend=-1))
    last = np.append(first[1:], len(shard)) - 1
    spread = np.linspace(0, len(shard) - 1, min(len(shard), _SAMPLED)).astype(np.int64)
    return np.unique(np.concatenate([first, last, spread]))


def _keep(path: Path, index: Index) -> None:
    # Several processes may do this at once. Each writes the same content to its own temporary file
    # and renames it.
    make_folder(path.parent, parents=True)
    replace_file(path, lambda stream: np.savez(stream, **index._asdict()), durable=False)


def scan(path: Path, label_key: str, image_key: str) -> _Scanned:
    """Returns first byte, label and stored checksum of each record, without reading images.

    Raises:
      DataError: The file is truncated, damaged or compressed, or a record lacks the label, or the
        first record lacks the image.
    """
    try:
        with retried(lambda: open_file(path)) as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint32)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _scan(content, size, path, label_key, image_key)
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from None


def _scan(content: mmap.mmap, size: int, path: Path, label_key: str, image_key: str) -> _Scanned:
    starts: list[int] = []
    labels: list[int] = []
    checksums: list[int] = []
    at = 0
    while at < size:
        try:
            length = _length(content[at : at + _HEADER.size])
        except (ValueError, struct.error):
            if at == 0 and content[:2] in _COMPRESSED:
                raise DataError(
                    f"{path} is compressed, and a compressed file has no random access. Write it "
                    "again without compression"
                ) from None
            raise DataError(
                f"{path} is damaged or truncated at byte {at} of {size}: there is no valid record. "
                "Copy it again"
            ) from None
        first = at + _HEADER.size
        if first + length + _FOOTER.size > size:
            raise DataError(
                f"{path} is truncated: record {len(starts)} at byte {at} needs "
                f"{first + length + _FOOTER.size - size} more bytes. Copy it again"
            )
        try:
            if not labels:  # a wrong feature name would fail in every record
                bytes_feature(content, image_key, first, first + length)
            labels.append(int_feature(content, label_key, first, first + length))
        except ValueError as error:
            raise DataError(
                f"{path}, record {len(starts)}: {error}. Set data.tfrecord_label_key and "
                "data.tfrecord_image_key to the names of the features"
            ) from None
        starts.append(at)
        at = first + length + _FOOTER.size
        checksums.append(_FOOTER.unpack(content[at - _FOOTER.size : at])[0])
    return np.array(starts, np.int64), np.array(labels, np.int64), np.array(checksums, np.uint32)


def _length(header: bytes) -> int:
    """Returns a record's length; raises ValueError or struct.error if its checksum is wrong."""
    length, checksum = _HEADER.unpack(header)
    if checksum != _masked_crc(header[:8]):
        raise ValueError("wrong checksum")
    return int(length)


def _masked_crc(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
