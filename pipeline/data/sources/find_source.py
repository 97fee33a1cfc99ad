"""Detects the kind of a data set from its path or name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.data.sources.cifar import LAYOUTS
from pipeline.data.sources.folder import has_class_folders
from pipeline.data.sources.records import FACTS
from pipeline.data.sources.tfrecord import is_tfrecord
from pipeline.errors import SettingsError

NAMED = ("digits", "cifar10", "cifar100", "fashion_mnist")
_LISTS = (".csv", ".json", ".jsonl", ".ndjson")


def find_source(name: str, kind: str | None = None) -> dict[str, Any]:
    """Returns the settings `source` and `path` for a data set.

    Args:
      name: A file, a folder, or the name of a data set.
      kind: The kind given by the user, as in `data.source`; None to detect it.

    Raises:
      SettingsError: The data set does not exist, or its kind cannot be detected.
    """
    path = Path(name).expanduser()
    if kind is not None:
        return {"source": kind, "path": None if name == kind else str(path)}
    if not path.exists():
        if name in NAMED:
            return {"source": name, "path": None}
        raise SettingsError(
            f"{name} does not exist. Name a folder, a list, or one of {', '.join(NAMED)}"
        )
    found = kind_of(path) or ("image_folder" if has_class_folders(path) else None)
    if found is None:
        raise SettingsError(
            f"cannot tell what kind of data set {path} is. Set data.source to image_folder, list, "
            "tfrecord, cifar10, cifar100 or fashion_mnist"
        )
    return {"source": found, "path": str(path)}


def kind_of(path: Path) -> str | None:
    """Returns `data.source` for a file or folder; None if it cannot be detected.

    Raises:
      SettingsError: The folder was written by `vit prepare`.
    """
    return _kind_of_file(path) if path.is_file() else _kind_of_folder(path)


def _kind_of_file(path: Path) -> str | None:
    if path.suffix.lower() in _LISTS:
        return "list"
    return next((k for k, layout in LAYOUTS.items() if path.name == layout.archive), None)


def _kind_of_folder(path: Path) -> str | None:
    if (path / FACTS).is_file():
        raise SettingsError(f"{path} is already prepared. Train from it with data.source=records")
    for kind, layout in LAYOUTS.items():
        own = path.name == layout.folder and (path / layout.meta).is_file()
        if own or (path / layout.folder).is_dir() or (path / layout.archive).is_file():
            return kind
    if any(path.glob("train-images-idx3-ubyte*")):
        return "fashion_mnist"
    if any(is_tfrecord(file) for folder in (path, path / "train") for file in folder.glob("*")):
        return "tfrecord"
    return "image_folder" if (path / "train").is_dir() else None
