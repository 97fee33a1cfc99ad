"""A TFRecord file: random access to its records, and a scan of their positions and labels.

References:
  The format: tensorflow/core/lib/io/record_writer.h. A record is stored as its length (uint64), the
  masked CRC-32C of the length (uint32), the data, and the masked CRC-32C of the data, all
  little-endian.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import weakref
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from pipeline.data.sources.example import bytes_feature, int_feature
from pipeline.errors import DataError
from pipeline.storage.read import open_descriptor, open_file, read_at, reason, retried

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
_COMPRESSED = (b"\x1f\x8b", b"\x78\x9c", b"\x78\x01", b"\x78\xda")

# Offsets, labels and checksums: int64 [n], int64 [n], uint32 [n].
Scanned = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint32]]


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
        if len(checksum) != FOOTER.size or FOOTER.unpack(checksum)[0] != masked_crc(content):
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
            length = _length(read_at(file, HEADER.size, place))
            if length > os.fstat(file).st_size - place:
                raise ValueError("the record is longer than its file")
            size, start = length + FOOTER.size, place + HEADER.size
            if not content:
                size, start = FOOTER.size, start + length
            return length, read_at(file, size, start)
        except OSError as error:
            if error.errno == errno.ESTALE:
                self._open()
            raise


def scan(path: Path, label_key: str, image_key: str) -> Scanned:
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


def _scan(content: mmap.mmap, size: int, path: Path, label_key: str, image_key: str) -> Scanned:
    starts: list[int] = []
    labels: list[int] = []
    checksums: list[int] = []
    at = 0
    while at < size:
        try:
            length = _length(content[at : at + HEADER.size])
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
        first = at + HEADER.size
        if first + length + FOOTER.size > size:
            raise DataError(
                f"{path} is truncated: record {len(starts)} at byte {at} needs "
                f"{first + length + FOOTER.size - size} more bytes. Copy it again"
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
        at = first + length + FOOTER.size
        checksums.append(FOOTER.unpack(content[at - FOOTER.size : at])[0])
    return np.array(starts, np.int64), np.array(labels, np.int64), np.array(checksums, np.uint32)


def _length(header: bytes) -> int:
    """Returns a record's length; raises ValueError or struct.error if its checksum is wrong."""
    length, checksum = HEADER.unpack(header)
    if checksum != masked_crc(header[:8]):
        raise ValueError("wrong checksum")
    return int(length)


def masked_crc(content: bytes) -> int:
    """Returns the CRC-32C in the masked form that the files store, 32 bits."""
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
