"""Makes, moves and removes files and folders where other people may have put links.

Each function opens the folder first and acts in what it has opened, so that nobody can put a link
in the folder's place meanwhile. Importing this module does not import TensorFlow.

References:
  CWE-59, Improper Link Resolution Before File Access: https://cwe.mitre.org/data/definitions/59.html
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.storage.read import FileRefused, real_path

UNFINISHED = ".new"  # the end of the names of what is not in its place yet


class NewFolder(NamedTuple):
    """A folder that was just made.

    Attributes:
      path: Where it is.
      inside: The same folder by an open descriptor. What is written to files below it goes into
        this folder, even where somebody has put a link in its place.
    """

    path: Path
    inside: Path


@contextmanager
def open_folder(path: Path, below: Path | None = None) -> Iterator[int]:
    """A descriptor of a folder.

    Args:
      below: It must be this folder or be below it, once links are resolved.

    Raises:
      FileRefused: A link leads out of `below`.
      OSError: It cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if below is not None:
            real, root = Path(real_path(descriptor)), Path(os.path.realpath(below))
            if not real.is_relative_to(root):
                raise FileRefused(f"outside {below}: a link leads to {real}", path)
        yield descriptor
    finally:
        os.close(descriptor)


def make_folder(path: Path, *, below: Path | None = None, parents: bool = False) -> None:
    """Makes a folder where there is none.

    Args:
      below: It must be below this folder, once links are resolved.
      parents: Whether to make those above it as well.

    Raises:
      FileRefused: A link leads out of `below`.
      OSError: It cannot be made.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    with open_folder(path.parent, below) as folder:
        try:
            os.mkdir(path.name or ".", dir_fd=folder)
        except FileExistsError:
            if not path.is_dir():
                raise
    with open_folder(path, below):
        pass


@contextmanager
def new_folder(
    path: Path, *, below: Path | None = None, mode: int = 0o777, ending: str = UNFINISHED
) -> Iterator[NewFolder]:
    """A new folder beside a path, with a name that nobody can guess; removed if still there.

    It is for what libraries write by path. Rename it when it is whole.

    Args:
      path: Its name is the beginning of the folder's name.
      below: The folder must be below this one, once links are resolved.
      ending: Of its name.

    Raises:
      FileRefused: A link leads out of `below`.
      OSError: It cannot be made.
    """
    name = f"{path.name}.{secrets.token_hex(8)}{ending}"
    with open_folder(path.parent, below) as folder:
        os.mkdir(name, mode, dir_fd=folder)
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder
            )
            try:
                yield NewFolder(path.with_name(name), Path(f"/proc/self/fd/{descriptor}"))
            finally:
                os.close(descriptor)
        finally:
            _remove_tree(name, folder)


@contextmanager
def written_beside(path: Path, *, below: Path | None = None) -> Iterator[Path]:
    """Where to write a file or folder that takes its place at the end, if nothing fails.

    It is for what libraries write by path; `replace_file` is for all else. The name is that of
    `path`, in a new folder that only this user can enter.

    Raises:
      FileRefused: A link leads out of `below`, or another kind of file is in the place.
      OSError: It cannot be written, or a folder is in the place of a file.
    """
    hidden = path.with_name(f".{path.name}")
    with new_folder(hidden, below=below, mode=0o700) as new, open_folder(path.parent, below) as to:
        yield new.inside / path.name
        check_replaceable(path, to)
        os.replace(new.inside / path.name, path.name, dst_dir_fd=to)


def rename(path: Path, name: str, *, below: Path | None = None) -> Path:
    """Gives a file or folder another name in the same folder, and returns its new path.

    Raises:
      FileRefused: A link leads out of `below`.
      OSError: It cannot be renamed.
    """
    with open_folder(path.parent, below) as folder:
        os.rename(path.name, name, src_dir_fd=folder, dst_dir_fd=folder)
    return path.with_name(name)


def remove_file(path: Path, *, below: Path | None = None) -> None:
    """Removes a file, or a link and not what it leads to; one that is not there is no error.

    Raises:
      FileRefused: A link leads out of `below`.
      OSError: It cannot be removed.
    """
    with suppress(FileNotFoundError), open_folder(path.parent, below) as folder:
        os.unlink(path.name, dir_fd=folder)


def remove_folder(path: Path, *, below: Path | None = None) -> None:
    """Removes a folder with its content, or a link and not what it leads to.

    What cannot be removed stays, and so does what a link out of `below` leads to.
    """
    with suppress(OSError), open_folder(path.parent, below) as folder:
        _remove_tree(path.name, folder)


def check_replaceable(path: Path, folder: int) -> None:
    """Refuses to put a file in the place of anything but a file.

    Root could otherwise replace /dev/null.

    Args:
      folder: A descriptor of the one that the file is in.

    Raises:
      FileRefused: There is a device, a FIFO or a socket, or a link leads to one or to a folder.
    """
    try:
        own = os.lstat(path.name, dir_fd=folder).st_mode
        found = os.stat(path.name, dir_fd=folder).st_mode
    except OSError:  # nothing is there, or a link that leads nowhere
        return
    if stat.S_ISLNK(own) and stat.S_ISDIR(found):
        raise FileRefused("a link to a folder", path)
    if not (stat.S_ISREG(found) or stat.S_ISDIR(found)):
        raise FileRefused("not a regular file", path)


def _remove_tree(name: str, folder: int) -> None:
    """Removes all that can be removed; rmtree follows no link (`rmtree.avoids_symlink_attacks`)."""
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)
        return
    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
