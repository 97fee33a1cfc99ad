"""Creates, moves and removes files and folders where others may have placed symbolic links.

Each function opens the parent folder first and works relative to the open descriptor, so that
nobody can replace the folder by a link in the meantime. Importing this module does not import
TensorFlow.

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

UNFINISHED = ".new"  # suffix of temporary files and folders


class NewFolder(NamedTuple):
    """A folder that was just created.

    Attributes:
      path: Its path.
      inside: A path to the same folder through an open descriptor. Writes below it go to this
        folder even if somebody has replaced it by a link.
    """

    path: Path
    inside: Path


@contextmanager
def open_folder(path: Path, below: Path | None = None) -> Iterator[int]:
    """Opens a folder and yields its descriptor.

    Args:
      path: The folder.
      below: If given, the folder must be this one or inside it, after resolving links.

    Raises:
      FileRefused: A link leads outside `below`.
      OSError: The folder cannot be opened.
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
    """Creates a folder if it does not exist.

    Args:
      path: The folder.
      below: If given, the folder must be inside this one, after resolving links.
      parents: Whether to create missing parent folders.

    Raises:
      FileRefused: A link leads outside `below`.
      OSError: The folder cannot be created.
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
    """Creates a folder next to `path` with an unpredictable name, and removes it at the end.

    Use it for libraries that write to a path. Rename the folder when its content is complete; then
    it is not removed.

    Args:
      path: Its name is the first part of the folder's name.
      below: If given, the folder must be inside this one, after resolving links.
      mode: Permissions.
      ending: The last part of the folder's name.

    Raises:
      FileRefused: A link leads outside `below`.
      OSError: The folder cannot be created.
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
    """Yields a temporary path, and moves what is written there to `path` if no error occurs.

    Use it for libraries that write to a path, and `replace_file` otherwise. The temporary path has
    the same name as `path`, in a new folder that only this user can access.

    Raises:
      FileRefused: A link leads outside `below`, or `path` is not a regular file or folder.
      OSError: The file cannot be written, or `path` is a folder and the new file is not.
    """
    hidden = path.with_name(f".{path.name}")
    with new_folder(hidden, below=below, mode=0o700) as new, open_folder(path.parent, below) as to:
        yield new.inside / path.name
        check_replaceable(path, to)
        os.replace(new.inside / path.name, path.name, dst_dir_fd=to)


def rename(path: Path, name: str, *, below: Path | None = None) -> Path:
    """Renames a file or folder within its folder, and returns the new path.

    Raises:
      FileRefused: A link leads outside `below`.
      OSError: It cannot be renamed.
    """
    with open_folder(path.parent, below) as folder:
        os.rename(path.name, name, src_dir_fd=folder, dst_dir_fd=folder)
    return path.with_name(name)


def remove_file(path: Path, *, below: Path | None = None) -> None:
    """Removes a file, or a link but not its target. A missing file is not an error.

    Raises:
      FileRefused: A link leads outside `below`.
      OSError: The file cannot be removed.
    """
    with suppress(FileNotFoundError), open_folder(path.parent, below) as folder:
        os.unlink(path.name, dir_fd=folder)


def remove_folder(path: Path, *, below: Path | None = None) -> None:
    """Removes a folder with its content, or a link but not its target.

    Errors are ignored: what cannot be removed stays, as does anything outside `below`.
    """
    with suppress(OSError), open_folder(path.parent, below) as folder:
        _remove_tree(path.name, folder)


def check_replaceable(path: Path, folder: int) -> None:
    """Refuses to replace anything that is not a regular file or a folder.

    Otherwise root could replace /dev/null.

    Args:
      path: The path to be replaced.
      folder: A descriptor of its parent folder.

    Raises:
      FileRefused: The path is a device, a FIFO or a socket, or a link to one of these or to a
        folder.
    """
    try:
        own = os.lstat(path.name, dir_fd=folder).st_mode
        found = os.stat(path.name, dir_fd=folder).st_mode
    except OSError:  # the path does not exist, or is a broken link
        return
    if stat.S_ISLNK(own) and stat.S_ISDIR(found):
        raise FileRefused("a link to a folder", path)
    if not (stat.S_ISREG(found) or stat.S_ISDIR(found)):
        raise FileRefused("not a regular file", path)


def _remove_tree(name: str, folder: int) -> None:
    """Removes as much as possible; rmtree follows no links (`rmtree.avoids_symlink_attacks`)."""
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)
        return
    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
