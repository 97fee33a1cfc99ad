"""Writes files in folders where others may have placed symbolic links.

Every file of the project is written through this module. A new file is created exclusively under an
unpredictable name, so that no link is followed, and then replaces the old file atomically.
Importing this module does not import TensorFlow.

References:
  CWE-59, Improper Link Resolution Before File Access: https://cwe.mitre.org/data/definitions/59.html
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

from pipeline.storage.folders import UNFINISHED, check_replaceable, open_folder, remove_folder
from pipeline.storage.read import FileRefused, check_regular

# No write takes this long. An older temporary file was left by a process that died.
_UNFINISHED_AFTER_S = 3600.0


def replace_file(
    path: Path,
    content: str | bytes | Callable[[BinaryIO], object],
    *,
    below: Path | None = None,
    durable: bool = True,
) -> None:
    """Writes a file and replaces an existing one atomically.

    If `path` is a link, the link is replaced and its target does not change.

    Args:
      path: The file. Its folder must exist.
      content: Text (written as UTF-8, with backslash escapes for lone surrogates), bytes, or a
        function that writes to a binary file.
      below: If given, the file's folder must be this one or inside it, after resolving links.
      durable: Whether the content must be on disk when this function returns. Otherwise a power
        failure may leave an empty file.

    Raises:
      FileRefused: A link leads outside `below`, or `path` is not a regular file.
      OSError: The file cannot be written. An existing file is unchanged.
    """
    with open_folder(path.parent, below) as folder:
        check_replaceable(path, folder)
        temporary = f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o666, dir_fd=folder)
        try:
            with open(descriptor, "wb") as stream:
                _write(stream, content)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise


def open_to_append(path: Path, *, below: Path | None = None) -> BinaryIO:
    """Opens a file for appending, unbuffered. It is created if it does not exist.

    Raises:
      FileRefused: The path is a link, is not a regular file, or has other hard links and is in a
        folder that others can write to; or a link leads outside `below`.
      OSError: The file cannot be opened.
    """
    return _open(path, below, os.O_RDWR | os.O_APPEND | os.O_CREAT, "ab")


def append_to_file(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Appends content to a file. It is created if it does not exist.

    Args:
      path: The file.
      content: What to append.
      durable: Whether the content must be on disk when this function returns.

    Raises:
      FileRefused: As for `open_to_append`.
      OSError: The content cannot be written, or only in part.
    """
    with open_to_append(path) as stream:
        write_all(stream, content)
        if durable:
            os.fsync(stream.fileno())


def write_all(stream: BinaryIO, content: bytes) -> None:
    """Writes everything to an unbuffered file, whose `write` may write only a part."""
    rest = memoryview(content)
    while rest:
        rest = rest[stream.write(rest) :]


def open_to_overwrite(path: Path, *, below: Path | None = None) -> BinaryIO:
    """Opens an existing file to overwrite its content, unbuffered.

    Raises:
      FileRefused: As for `open_to_append`.
      OSError: The file does not exist or cannot be opened.
    """
    return _open(path, below, os.O_RDWR, "r+b")


def remove_unfinished(folder: Path) -> None:
    """Removes temporary files that killed processes left in a folder at least an hour ago."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(".") and entry.name.endswith(UNFINISHED)):
                continue
            with suppress(OSError):
                age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if not entry.is_symlink() and age_s > _UNFINISHED_AFTER_S:
                    remove_folder(Path(entry.path))


def _open(path: Path, below: Path | None, flags: int, mode: Literal["ab", "r+b"]) -> BinaryIO:
    with open_folder(path.parent, below) as folder:
        # Without O_NONBLOCK, opening a FIFO without a reader would block.
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path.name, flags, 0o666, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise FileRefused("a symbolic link, which is not followed", path) from None
            raise
        try:
            check_regular(descriptor, path)
            _check_names(descriptor, folder, path)
            return open(descriptor, mode, buffering=0)
        except BaseException:
            os.close(descriptor)
            raise


def _check_names(descriptor: int, folder: int, path: Path) -> None:
    """Refuses a file with several hard links, one of which somebody else may have created.

    If only this user and root can write to the folder, the links are the user's own (`cp -al`).
    """
    if os.fstat(descriptor).st_nlink < 2:
        return
    found = os.fstat(folder)
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
        raise FileRefused("a file with other hard links, which would change too", path)


def _write(stream: BinaryIO, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    if callable(content):
        content(stream)
    elif isinstance(content, str):
        stream.write(content.encode("utf-8", errors="backslashreplace"))
    else:
        stream.write(content)
