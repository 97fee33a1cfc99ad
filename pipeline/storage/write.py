"""Writes files in folders in which other people may have put links.

Every file of the project is written through this module. A new file gets a name that nobody can
guess and is created exclusively, so that a link under its name is never followed. It then takes the
place of the old file in one step. Importing this module does not import TensorFlow.

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

# Nothing takes so long to write, except where its writer has died.
_UNFINISHED_AFTER_S = 3600.0


def replace_file(
    path: Path,
    content: str | bytes | Callable[[BinaryIO], object],
    *,
    below: Path | None = None,
    durable: bool = True,
) -> None:
    """Puts a file with this content in the place of what was there, in one step.

    A link under the file's own name is replaced, and what it leads to stays as it was.

    Args:
      path: Of the file, in a folder that exists.
      content: Text (written as UTF-8, with backslash escapes for lone surrogates), bytes, or a
        function that writes to a binary file.
      below: The file's folder must be this folder or be below it, once links are resolved.
      durable: Whether the content must be on the disk when this returns. Without it, a loss of
        power may leave an empty file.

    Raises:
      FileRefused: A link leads out of `below`, or another kind of file is in the place.
      OSError: It cannot be written; what was there still is.
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
    """Opens a file to write at its end, unbuffered; it is created where it is not there.

    Raises:
      FileRefused: The path is a link, no regular file, or a file with other names in a folder in
        which others can write; or a link leads out of `below`.
      OSError: It cannot be opened.
    """
    return _open(path, below, os.O_RDWR | os.O_APPEND | os.O_CREAT, "ab")


def append_to_file(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Adds content to the end of a file; it is created where it is not there.

    Args:
      durable: Whether the content must be on the disk when this returns.

    Raises:
      FileRefused: As `open_to_append`.
      OSError: It cannot be written; a part of it may be.
    """
    with open_to_append(path) as stream:
        write_all(stream, content)
        if durable:
            os.fsync(stream.fileno())


def write_all(stream: BinaryIO, content: bytes) -> None:
    """Writes to an unbuffered file, whose own `write` may write a part only."""
    rest = memoryview(content)
    while rest:
        rest = rest[stream.write(rest) :]


def open_to_overwrite(path: Path, *, below: Path | None = None) -> BinaryIO:
    """Opens a file that is there to write over its content, unbuffered.

    Raises:
      FileRefused: As `open_to_append`.
      OSError: It cannot be opened, or is not there.
    """
    return _open(path, below, os.O_RDWR, "r+b")


def remove_unfinished(folder: Path) -> None:
    """Removes what writers left in a folder that were killed an hour ago or before."""
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
        # Without O_NONBLOCK, a FIFO that nobody reads would be waited for.
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path.name, flags, 0o666, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise FileRefused("a link, which is not written through", path) from None
            raise
        try:
            check_regular(descriptor, path)
            _check_names(descriptor, folder, path)
            return open(descriptor, mode, buffering=0)
        except BaseException:
            os.close(descriptor)
            raise


def _check_names(descriptor: int, folder: int, path: Path) -> None:
    """Refuses a file that somebody may have given this name beside its own (a hard link).

    In a folder in which only this user and root can write, such names are the user's: `cp -al`.
    """
    if os.fstat(descriptor).st_nlink < 2:
        return
    found = os.fstat(folder)
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
        raise FileRefused("a file with other names (hard links), which it would change too", path)


def _write(stream: BinaryIO, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    if callable(content):
        content(stream)
    elif isinstance(content, str):
        stream.write(content.encode("utf-8", errors="backslashreplace"))
    else:
        stream.write(content)
