"""Reads members of archives in memory, up to a limit, without writing to disk.

References:
  POSIX.1-2017, pax, "ustar Interchange Format".
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Collection

GZIP = b"\x1f\x8b"

_BLOCK = 512
_NAME, _SIZE, _CHECKSUM, _KIND = slice(0, 100), slice(124, 136), slice(148, 156), slice(156, 157)
_REGULAR = (b"0", b"\0")


def gunzip(content: bytes, limit_bytes: int) -> bytes:
    """Unpacks gzip.

    Raises:
      ValueError: The content is damaged or incomplete, or larger than the limit when unpacked.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            unpacked = stream.read(limit_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it is damaged or incomplete: {error}") from None
    if len(unpacked) > limit_bytes:
        raise ValueError(f"it has more than {limit_bytes:,} bytes when unpacked")
    return unpacked


def read_tar(content: bytes, names: Collection[str]) -> dict[str, bytes]:
    """Returns the regular files of a tar archive whose base name is in `names`.

    Links, sparse files and all other members are skipped. `tarfile` supports more kinds of members,
    but some archives make it loop forever (CVE-2025-8194).

    Raises:
      ValueError: The content is not a tar archive, is damaged, or is truncated.
    """
    members, at = {}, 0
    while header := content[at : at + _BLOCK].rstrip(b"\0"):
        header = header.ljust(_BLOCK, b"\0")
        name, size = _describe(header, at)
        first, at = at + _BLOCK, at + _BLOCK + -(-size // _BLOCK) * _BLOCK
        if first + size > len(content):
            raise ValueError(f"{name!r:.100} is truncated")
        base = name.rsplit("/", 1)[-1]
        if header[_KIND] in _REGULAR and base in names:
            members[base] = content[first : first + size]
    if not at:
        raise ValueError("it is empty")
    return members


def _describe(header: bytes, at: int) -> tuple[str, int]:
    """Returns the name and size of a member."""
    empty = header[: _CHECKSUM.start] + b" " * 8 + header[_CHECKSUM.stop :]
    if _octal(header[_CHECKSUM]) != sum(empty):
        raise ValueError(f"there is no valid tar header at byte {at:,}")
    return header[_NAME].split(b"\0", 1)[0].decode(errors="replace"), _octal(header[_SIZE])


def _octal(field: bytes) -> int:
    # GNU tar encodes sizes above 8 GB differently, starting with the byte 0x80 or 0xff.
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise ValueError("it is not a tar archive, or has a member larger than 8 GB")
    return int(digits or b"0", 8)
