"""Reads of data files, with retries.

Shared file systems sometimes refuse a read that succeeds a moment later. Such errors are retried;
an error that persists is raised, and `reason` names its errno. Other errors (no such file, no
permission, a folder) are raised at once. Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

T = TypeVar("T")

# What a network file system answers while its server restarts, or a disk at a read that fails.
TRANSIENT = frozenset(
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EREMOTEIO,
     errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH,
     errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.ESHUTDOWN)
)  # fmt: skip

# With pauses of 0.1, 0.2, 0.4 and 0.8 s: a server that changes its address is away for a second.
ATTEMPTS = 5
_FIRST_WAIT_S = 0.1


def retried(function: Callable[[], T]) -> T:
    """Calls a function that reads, and calls it again while its error may pass.

    Raises:
      OSError: The last attempt's error; `reason` is its text for a message.
    """
    # The first attempt is outside, because tenacity takes 15 us a call: 15 s for a million files.
    try:
        return function()
    except OSError as error:
        if not _may_pass(error):
            raise
    time.sleep(_FIRST_WAIT_S)
    others = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(ATTEMPTS - 1),
        wait=wait_exponential(multiplier=2 * _FIRST_WAIT_S),
        reraise=True,
    )
    return others(function)


def reason(error: OSError) -> str:
    """Why a read failed, for a message; with the errno of one that was tried again."""
    text = error.strerror or str(error)
    if error.errno in TRANSIENT:
        text += f" ({errno.errorcode[error.errno]}, in each of {ATTEMPTS} attempts)"
    return text


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The whole content of a file.

    Raises:
      OSError: It cannot be read, or ends before its size.
    """

    def read() -> bytes:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read()
        return _whole(content, size)

    return retried(read)


def read_at(descriptor: int, size: int, place: int) -> bytes:
    """`size` bytes of an open file from byte `place` on; fewer where the file ends before.

    It is for use inside `retried`: after ESTALE the file must be opened again first.

    Raises:
      OSError: They cannot be read.
    """
    content = os.pread(descriptor, size, place)
    if len(content) < size:
        there = os.fstat(descriptor).st_size - place
        _whole(content, max(0, min(size, there)))
    return content


def stat(path: str | os.PathLike[str]) -> os.stat_result:
    """`os.stat`."""
    return retried(lambda: os.stat(path))


def list_folder(folder: str | os.PathLike[str]) -> Sequence[os.DirEntry[str]]:
    """The entries of a folder, sorted by name."""

    def read() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    return retried(read)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in TRANSIENT


def _whole(content: bytes, size: int) -> bytes:
    if len(content) < size:
        raise OSError(errno.EIO, f"only {len(content)} of {size} bytes were read")
    return content
