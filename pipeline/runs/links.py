"""A run folder of other people may have links in it: none may lead out of it.

What a run writes and deletes would otherwise be elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.printable import printable

# What runs write. Other files are the user's, and are left alone.
_WRITTEN = frozenset(
    ("config.yaml", "dataset.json", "metrics.jsonl", "starts.jsonl", "predictions.npz",
     "examples.npz", "report.html", "outcome.json", "stop", "skipped.txt", "repaired.txt",
     "checkpoints", "tensorboard", ".lock")
)  # fmt: skip
# Folders in which runs write and delete at any depth.
_FOLDERS = ("checkpoints", "tensorboard", ".lock")


def check_links(folder: Path) -> None:
    """Refuses a run folder from which a link leads out, or in which a file is none.

    The folder itself may be reached through a link, and links may lead to places inside it. A
    folder that is not there yet is accepted.

    Raises:
      SettingsError: Names the link and where it leads, or the special file.
    """
    root = Path(os.path.realpath(folder))
    for entry in _written(folder):
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if not Path(target).is_relative_to(root):
                raise SettingsError(
                    f"{printable(entry.path)} is a link that leads out of the run folder, to "
                    f"{printable(target)}: what is written or deleted there would not be the "
                    "run's. Remove the link, or name another folder"
                )
        if not (entry.is_file() or entry.is_dir() or entry.is_symlink()):
            raise SettingsError(
                f"{printable(entry.path)} is neither a file nor a folder. Remove it, or name "
                "another folder"
            )


def _written(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What runs write, and all that is in the folders in which they write."""
    for entry in _entries(folder):
        if entry.name.removesuffix(".damaged") in _WRITTEN:
            yield entry
            if entry.name in _FOLDERS:
                yield from _below(entry)


def _below(entry: os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    waiting = [entry]
    while waiting:
        one = waiting.pop()
        if one.is_dir(follow_symlinks=False):
            for inner in _entries(one.path):
                yield inner
                waiting.append(inner)


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # a run that goes on may delete it meanwhile; what cannot be read is said elsewhere
