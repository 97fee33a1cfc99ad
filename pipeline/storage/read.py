"""Reads of files that other people may have made, with retries.

A device, a FIFO or a socket under a file's name would be read for ever, and a link may lead to a
file that its owner did not mean to show. So all reads of data, recipes, weights and run folders go
through here: a regular file, optionally inside a folder and up to a size.

Shared file systems sometimes refuse a read that succeeds a moment later. Such errors are retried;
an error that persists is raised, and `reason` names its errno. Other errors (no such file, no
permission, a folder) are raised at once. Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import errno
import os
import stat as mode
import time
from collections.abc import Callable, Sequence
from io import BufferedReader
from typing import TypeVar

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
_KINDS = {
    mode.S_IFIFO: "a FIFO",
    mode.S_IFSOCK: "a socket",
    mode.S_IFCHR: "a device",
    mode.S_IFBLK: "a device",
}


def retried(function: Callable[[], T]) -> T:
    """Calls a function that reads, and calls it again while its error may pass.

    Raises:
      OSError: The last attempt's error; `reason` is its text for a message.
    """
    # The first attempt is outside, because tenacity takes 15 us a call: 15 s for a million files.
    # It also takes 60 ms to import, which reading a recipe need not wait for.
    try:
        return function()
    except OSError as error:
        if not _may_pass(error):
            raise
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

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


class RealFolder(str):
    """A folder with all links resolved; it is not resolved again for each file that is read."""

    __slots__ = ()


def real_folder(path: str | os.PathLike[str]) -> RealFolder:
    """A folder, as `below` of many reads."""
    return RealFolder(os.path.realpath(path))


class FileRefused(OSError):
    """A path leads to something that is not read or written, whatever its permissions.

    It is an OSError, so that it is reported wherever a file that cannot be read is.

    Args:
      text: Why, as the end of a message: "a FIFO, not a regular file".
    """

    def __init__(self, text: str, path: str | os.PathLike[str]) -> None:
        super().__init__(errno.EPERM, text, os.fspath(path))


class FileOutside(FileRefused):
    """A file is not in the folder that it must be in, once links are resolved."""


def open_file(
    path: str | os.PathLike[str],
    *,
    below: str | os.PathLike[str] | None = None,
    limit_bytes: int | None = None,
) -> BufferedReader:
    """Opens a regular file to read; other kinds of file are refused and not waited for.

    Args:
      below: The file must be in this folder or below it, once links are resolved.
      limit_bytes: The file may not be larger.

    Raises:
      FileRefused: It is no regular file or is too large.
      FileOutside: It is not below `below`.
      OSError: It cannot be opened.
    """
    descriptor, _ = open_descriptor(path, below, limit_bytes)
    return open(descriptor, "rb")


def read_file(
    path: str | os.PathLike[str],
    *,
    below: str | os.PathLike[str] | None = None,
    limit_bytes: int | None = None,
) -> bytes:
    """The whole content of a regular file; arguments as of `open_file`.

    It takes 6 microseconds and the time of the storage, a fifth of what a file object would: image
    files are read by it, and there may be a million of them.

    Raises:
      FileRefused: As `open_file`.
      OSError: It cannot be read, or ends before its size.
    """
    return retried(lambda: _read_whole(path, below, limit_bytes))


def open_descriptor(
    path: str | os.PathLike[str],
    below: str | os.PathLike[str] | None = None,
    limit_bytes: int | None = None,
) -> tuple[int, int]:
    """A descriptor of a regular file, and its size; arguments and errors as of `open_file`."""
    # Without O_NONBLOCK, opening a FIFO that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        size = check_regular(descriptor, path)
        if limit_bytes is not None and size > limit_bytes:
            raise FileRefused(f"its {size:,} bytes are more than {limit_bytes:,}", path)
        if below is not None:
            real = real_path(descriptor)
            root = below if isinstance(below, RealFolder) else real_folder(below)
            if not real.startswith(root if root.endswith("/") else f"{root}/"):
                raise FileOutside(f"outside {os.fspath(below)}: it is {real}", path)
        return descriptor, size
    except BaseException:
        os.close(descriptor)
        raise


def _read_whole(
    path: str | os.PathLike[str], below: str | os.PathLike[str] | None, limit_bytes: int | None
) -> bytes:
    descriptor, size = open_descriptor(path, below, limit_bytes)
    try:
        # What is appended meanwhile is not read, so that the limit holds.
        content = os.read(descriptor, size)
        if len(content) < size:
            parts = [content]
            while parts[-1] and (left := size - sum(map(len, parts))) > 0:
                parts.append(os.read(descriptor, left))
            content = b"".join(parts)
    finally:
        os.close(descriptor)
    return _whole(content, size)


def check_regular(descriptor: int, path: str | os.PathLike[str]) -> int:
    """The size in bytes of an open file.

    Raises:
      IsADirectoryError: It is a folder.
      FileRefused: It is another kind of file than a regular one.
    """
    found = os.fstat(descriptor)
    if mode.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not mode.S_ISREG(found.st_mode):
        kind = _KINDS.get(mode.S_IFMT(found.st_mode), "a special file")
        raise FileRefused(f"{kind}, not a regular file", path)
    return found.st_size


def real_path(descriptor: int) -> str:
    """Where an open file is, with all links resolved.

    Asked of the descriptor (Linux), because the path may lead elsewhere by now.
    """
    return os.readlink(f"/proc/self/fd/{descriptor}")


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
