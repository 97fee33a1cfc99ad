"""Checks that no symbolic link in a run folder leads out of it.

A run folder may come from another user. Through such a link, a run would write or delete files
elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.printable import printable

# Files and folders that runs write. All others belong to the user and are not checked.
_WRITTEN = frozenset(
    ("config.yaml", "dataset.json", "metrics.jsonl", "starts.jsonl", "predictions.npz",
     "examples.npz", "report.html", "outcome.json", "stop", "skipped.txt", "repaired.txt",
     "checkpoints", "tensorboard", ".lock")
)  # fmt: skip
# Folders in which runs write and delete at any depth.
_FOLDERS = ("checkpoints", "tensorboard", ".lock")


def check_links(folder: Path) -> None:
    """Raises an error if a link leads out of the run folder, or if it holds a special file.

    The run folder itself may be a link, and links to places inside it are allowed. A folder that
    does not exist is accepted.

    Raises:
      SettingsError: The message names the link and its target, or the special file.
    """
    root = Path(os.path.realpath(folder))
    for entry in _written(folder):
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if not Path(target).is_relative_to(root):
                raise SettingsError(
                    f"{printable(entry.path)} is a link out of the run folder, to "
                    f"{printable(target)}: the run would write or delete files of others there. "
                    "Remove the link, or choose another folder"
                )
        if not (entry.is_file() or entry.is_dir() or entry.is_symlink()):
            raise SettingsError(
                f"{printable(entry.path)} is neither a file nor a folder. Remove it, or choose "
                "another folder"
            )


def _written(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yields the entries that runs write, and all entries below the folders they write to."""
    for entry in _entries(folder):
        if entry.name.removesuffix(".damaged") in _WRITTEN:
            yield entry
            if entry.name in _FOLDERS:
                yield from _below(entry)


def _below(entry: os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    pending = [entry]
    while pending:
        current = pending.pop()
        if current.is_dir(follow_symlinks=False):
            for inner in _entries(current.path):
                yield inner
                pending.append(inner)


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        # A running job may delete the folder meanwhile. Other checks report missing permissions.
        return
