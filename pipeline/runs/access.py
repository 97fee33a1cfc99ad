"""Checks that a folder is writable and has enough space, before training starts."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.storage.folders import new_folder, remove_folder, rename
from pipeline.storage.write import replace_file


def check_access(folder: Path, *subfolders: Path) -> None:
    """Checks permissions without writing anything. Folders that do not exist are accepted.

    Args:
      folder: The run folder. If it does not exist, its nearest existing parent is checked.
      *subfolders: Folders inside of it.

    Raises:
      OSError: One is not a folder, or this process may not read and write in it.
    """
    for path in {nearest_existing(folder), *subfolders}:
        if not os.path.lexists(path):
            continue
        if not path.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            read_only = os.statvfs(path).f_flag & os.ST_RDONLY
            code = errno.EROFS if read_only else errno.EACCES
            raise OSError(code, os.strerror(code))


def check_writable(folder: Path) -> None:
    """Creates, syncs, renames and deletes a small file and folder, as a checkpoint does.

    Raises:
      OSError: One of these operations fails in `folder`.
    """
    with new_folder(folder / ".try") as new:
        replace_file(new.inside / "file", b"x")
        remove_folder(rename(new.path, new.path.name.replace(".try.", ".tried.")))


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raises an error if the file system of the run folder has too little free space.

    Raises:
      SettingsError: The message gives the needed and the free space.
    """
    free = shutil.disk_usage(nearest_existing(folder)).free
    if free < needed_bytes:
        raise SettingsError(
            f"the run folder {folder} has {free / 1e6:,.1f} MB of free space, but the next "
            f"checkpoints need {needed_bytes / 1e6:,.1f} MB. Free some space, or choose another "
            "folder with run.dir=FOLDER"
        )


@contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Context that raises an OSError as a SettingsError that names the run folder."""
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"cannot use the run folder {folder}: {error.strerror}. It must be possible to write, "
            "rename and sync files there. Choose another folder with run.dir=FOLDER"
        ) from None


def nearest_existing(path: Path) -> Path:
    """The path if it exists, else its nearest parent that does."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if os.path.lexists(p))
