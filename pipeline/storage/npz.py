"""Reads NumPy files within a memory limit.

`numpy.load` allocates as much memory as a header declares and unpacks any zip archive, so a file of
2 MB can take 2 GB. Here each header is read first. Its sizes must match those in the archive, and
their total must not exceed a limit.

References:
  numpy.lib.format; PKWARE, APPNOTE.TXT, 4.3 and 4.4.
"""

from __future__ import annotations

import io
import math
import os
import struct
import sys
import zipfile
import zlib
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Maximum compression ratio of deflate: 1 MB becomes 1 GB (RFC 1951: 258 bytes in two bits).
_MOST_DEFLATED = 1032
_HEADER_BYTES = 16 * 1024
_CHUNK_BYTES = 2**20
# Size of the table of members in the file. In memory it is about 15 times as large.
_MOST_TABLE_BYTES = 8 * 2**20
_MOST_DIMENSIONS = 32
# Exceptions that `zipfile` raises for damaged archives.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, OverflowError,
    NotImplementedError, RuntimeError,
)  # fmt: skip


class ArraysRefused(ValueError):
    """A file of arrays is damaged or too large, or contains something other than numbers."""


class _Header(NamedTuple):
    """The header of a .npy file, and the offset of its values."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def length(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        return self.length * self.dtype.itemsize


def read_npy(content: bytes) -> Array:
    """Returns the array in a .npy file. It is read-only, because it shares memory with `content`.

    Raises:
      ArraysRefused: The file is damaged, or the array has objects or fields.
    """
    header = _read_header(content[:_HEADER_BYTES])
    if header.size != len(content) - header.start:
        raise ArraysRefused(
            f"its header declares {header.size:,} bytes, but it has {len(content) - header.start:,}"
        )
    return _shaped(np.frombuffer(content, np.uint8, offset=header.start), header)


def read_npz(file: BinaryIO, limit_bytes: int) -> dict[str, Array]:
    """Returns the arrays in an .npz file by name. Members that are not arrays are skipped.

    Args:
      file: An open, seekable file.
      limit_bytes: Maximum total size of the arrays in memory.

    Raises:
      ArraysRefused: The file is damaged, exceeds the limit, or has arrays of objects or fields.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        _check_table(file)
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            _check_members(members, size, limit_bytes)
            return {m.filename.removesuffix(".npy"): _read_member(archive, m) for m in members}
    except ArraysRefused:
        raise
    except _DAMAGED as error:
        raise ArraysRefused(f"it is damaged or incomplete: {error}") from None


def member_names(file: BinaryIO) -> list[str]:
    """Returns the names of all members of a zip archive.

    Raises:
      ArraysRefused: The file is not a zip archive, is damaged, or has too many members.
    """
    try:
        _check_table(file)
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except ArraysRefused:
        raise
    except _DAMAGED as error:
        raise ArraysRefused(f"it is damaged or incomplete: {error}") from None


def _check_table(file: BinaryIO) -> None:
    """Refuses an archive whose table of members would take too much memory."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if not end:
        raise ArraysRefused("it is damaged or incomplete: it is not a zip archive")
    if end[zipfile._ECD_SIZE] > _MOST_TABLE_BYTES:  # type: ignore[attr-defined]
        raise ArraysRefused("it has too many members")


def _check_members(members: list[zipfile.ZipInfo], size: int, limit_bytes: int) -> None:
    """Checks the declared sizes of the members against the size of the file and the limit."""
    if len({member.filename for member in members}) < len(members):
        raise ArraysRefused("two of its arrays have the same name")
    if sum(member.compress_size for member in members) > size:
        raise ArraysRefused("it is damaged: its members are larger than the file")
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED
        if not stored and member.compress_type != zipfile.ZIP_DEFLATED:
            raise ArraysRefused("it uses a compression method that NumPy does not use")
        if member.file_size > member.compress_size * (1 if stored else _MOST_DEFLATED):
            raise ArraysRefused("it is damaged: a member declares more bytes than it can contain")
    total = sum(member.file_size for member in members)
    if total > limit_bytes:
        raise ArraysRefused(
            f"its arrays take {total:,} bytes of memory ({size:,} in the file). The limit is "
            f"{limit_bytes:,}"
        )


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        head = stream.read(_HEADER_BYTES)
        header = _read_header(head)
        if header.start + header.size != member.file_size:
            raise ArraysRefused(
                f"{member.filename!r:.100}: its header declares {header.size:,} bytes, but it has "
                f"{member.file_size - header.start:,}"
            )
        values = np.empty(header.size, np.uint8)
        at = len(head) - header.start
        values[:at] = np.frombuffer(head, np.uint8, offset=header.start)
        while at < header.size:
            chunk = stream.read(min(_CHUNK_BYTES, header.size - at))
            if not chunk:
                raise ArraysRefused(f"{member.filename!r:.100} is truncated")
            values[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
            at += len(chunk)
    return _shaped(values, header)


def _read_header(head: bytes) -> _Header:
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = read(stream)
    except Exception as error:  # a damaged header can raise almost anything, even MemoryError
        raise ArraysRefused(f"an array has a damaged header: {error!r:.200}") from None
    header = _Header(shape, bool(is_fortran), dtype, stream.tell())
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise ArraysRefused("an array has values that are not numbers (objects or fields)")
    is_shape = len(shape) <= _MOST_DIMENSIONS and all(0 <= n < 2**48 for n in shape)
    if not is_shape or (dtype.itemsize == 0 and header.length > 1):
        raise ArraysRefused(f"an array has the impossible shape {shape!r:.100}")
    return header


def _shaped(values: npt.NDArray[np.uint8], header: _Header) -> Array:
    shape, dtype = header.shape, header.dtype
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    try:
        if (
            dtype.kind == "U"
            and values.view(f"{dtype.byteorder}u4").max(initial=0) > sys.maxunicode
        ):
            raise ArraysRefused("an array has text that is not valid Unicode")
        array: Array = values.view(dtype)
        return array.reshape(shape, order="F") if header.is_fortran else array.reshape(shape)
    except ValueError as error:
        raise ArraysRefused(f"an array is damaged: {error}") from None
