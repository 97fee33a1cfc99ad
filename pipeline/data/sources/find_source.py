"""What kind of data set a path or name means."""

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
    """The settings `source` and `path` of what a user named.

    Args:
      name: A file, a folder, or the name of a data set.
      kind: What the user says it is, `data.source`; None: look.

    Raises:
      SettingsError: It does not exist, or could be anything.
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
            f"cannot tell what {path} is: say it with data.source=image_folder, list, tfrecord, "
            "cifar10, cifar100 or fashion_mnist"
        )
    return {"source": found, "path": str(path)}


def kind_of(path: Path) -> str | None:
    """`data.source` of a file or folder; None where it could be anything.

    Raises:
      SettingsError: It is what `vit prepare` wrote.
    """
    return _kind_of_file(path) if path.is_file() else _kind_of_folder(path)


def _kind_of_file(path: Path) -> str | None:
    if path.suffix.lower() in _LISTS:
        return "list"
    return next((k for k, layout in LAYOUTS.items() if path.name == layout.archive), None)


def _kind_of_folder(path: Path) -> str | None:
    if (path / FACTS).is_file():
        raise SettingsError(f"{path} is prepared already: train from it with data.source=records")
    for kind, layout in LAYOUTS.items():
        own = path.name == layout.folder and (path / layout.meta).is_file()
        if own or (path / layout.folder).is_dir() or (path / layout.archive).is_file():
            return kind
    if any(path.glob("train-images-idx3-ubyte*")):
        return "fashion_mnist"
    if any(is_tfrecord(file) for folder in (path, path / "train") for file in folder.glob("*")):
        return "tfrecord"
    return "image_folder" if (path / "train").is_dir() else None
