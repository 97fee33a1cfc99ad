"""Reads files that others may have created, and retries transient errors.

Reading a device, a FIFO or a socket could block forever, and a link may lead to a file that its
owner did not intend to share. Therefore all reads of data, recipes, weights and run folders use
this module. It reads only regular files, optionally only inside a folder and up to a size limit.

On shared file systems a read sometimes fails and succeeds a moment later. Such errors are retried.
If an error persists it is raised, and `reason` includes its errno. Other errors, such as a missing
file or missing permissions, are raised immediately. Importing this module does not import
TensorFlow.
"""

from __future__ import annotations

import errno
import logging
import os
import stat as mode
import time
from collections.abc import Callable, Sequence
from io import BufferedReader
from typing import TypeVar

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

# Errors of a network file system while its server restarts, or of a disk when a read fails.
TRANSIENT = frozenset(
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EREMOTEIO,
     errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETDOWN, errno.ENETUNREACH,
     errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.ESHUTDOWN)
)  # fmt: skip

# With pauses of 0.1, 0.2, 0.4 and 0.8 s. A server that changes its address is away for a second.
ATTEMPTS = 5
_FIRST_WAIT_S = 0.1
_KINDS = {
    mode.S_IFIFO: "a FIFO",
    mode.S_IFSOCK: "a socket",
    mode.S_IFCHR: "a device",
    mode.S_IFBLK: "a device",
}


def retried(function: Callable[[], T]) -> T:
    """Calls a function that reads, and retries while it fails with a transient error.

    Raises:
      OSError: The error of the last attempt. `reason` formats it for a message.
    """
    # The first attempt does not use tenacity, whose overhead is 15 us per call, or 15 s for a
    # million files. Its import takes 60 ms, which reading a recipe should not have to wait for.
    try:
        return function()
    except OSError as error:
        if not _may_pass(error):
            raise
        _LOG.debug("reading again after an error that may pass: %s", error)
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
    """Says why a read failed, for a message. For an error that was retried, includes the errno."""
    text = error.strerror or str(error)
    if error.errno in TRANSIENT:
        text += f" ({errno.errorcode[error.errno]}, in each of {ATTEMPTS} attempts)"
    return text


class RealFolder(str):
    """The path of a folder with all links resolved, so that each read need not resolve them."""

    __slots__ = ()


def real_folder(path: str | os.PathLike[str]) -> RealFolder:
    """Resolves the links in a folder's path, to use it as `below` in many reads."""
    return RealFolder(os.path.realpath(path))


class FileRefused(OSError):
    """A path leads to something that must not be read or written, regardless of permissions.

    It is an OSError, so that it is reported like any file that cannot be read.

    Args:
      text: The reason, as the end of a message: "a FIFO, not a regular file".
      path: The path.
    """

    def __init__(self, text: str, path: str | os.PathLike[str]) -> None:
        super().__init__(errno.EPERM, text, os.fspath(path))


class FileOutside(FileRefused):
    """A file is outside the folder that must contain it, after resolving links."""


def open_file(
    path: str | os.PathLike[str],
    *,
    below: str | os.PathLike[str] | None = None,
    limit_bytes: int | None = None,
) -> BufferedReader:
    """Opens a regular file for reading. Other kinds of files are refused without blocking.

    Args:
      path: The file.
      below: If given, the file must be inside this folder, after resolving links.
      limit_bytes: The maximum size of the file.

    Raises:
      FileRefused: It is not a regular file or is too large.
      FileOutside: It is outside `below`.
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
    """Reads the whole content of a regular file; the arguments are those of `open_file`.

    The overhead is 6 microseconds, a fifth of that of a file object. This matters because there may
    be a million image files.

    Raises:
      FileRefused: As for `open_file`.
      OSError: The file cannot be read, or is shorter than its size.
    """
    return retried(lambda: _read_whole(path, below, limit_bytes))


def open_descriptor(
    path: str | os.PathLike[str],
    below: str | os.PathLike[str] | None = None,
    limit_bytes: int | None = None,
) -> tuple[int, int]:
    """Opens a regular file like `open_file`, and returns its descriptor and its size."""
    # Without O_NONBLOCK, opening a FIFO without a writer would block forever.
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
        # Data that is appended in the meantime is not read, so that the limit holds.
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
    """Returns the size in bytes of an open regular file.

    Raises:
      IsADirectoryError: It is a folder.
      FileRefused: It is not a regular file.
    """
    found = os.fstat(descriptor)
    if mode.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not mode.S_ISREG(found.st_mode):
        kind = _KINDS.get(mode.S_IFMT(found.st_mode), "a special file")
        raise FileRefused(f"{kind}, not a regular file", path)
    return found.st_size


def real_path(descriptor: int) -> str:
    """Returns the path of an open file, with all links resolved.

    It is determined from the descriptor (on Linux), because the path may lead elsewhere by now.
    """
    return os.readlink(f"/proc/self/fd/{descriptor}")


def read_at(descriptor: int, size: int, place: int) -> bytes:
    """Reads `size` bytes of an open file, starting at byte `place`; fewer at the end of the file.

    Call it inside `retried` together with opening the file: after ESTALE the file must be opened
    again.

    Raises:
      OSError: The bytes cannot be read.
    """
    content = os.pread(descriptor, size, place)
    if len(content) < size:
        there = os.fstat(descriptor).st_size - place
        _whole(content, max(0, min(size, there)))
    return content


def stat(path: str | os.PathLike[str]) -> os.stat_result:
    """Calls `os.stat`, with retries."""
    return retried(lambda: os.stat(path))


def list_folder(folder: str | os.PathLike[str]) -> Sequence[os.DirEntry[str]]:
    """Returns the entries of a folder, sorted by name."""

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
