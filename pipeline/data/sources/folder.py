"""Images as files: train/<class>/*, optionally validation/ and test/."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.split import DataSource, Split, hold_out_by_name
from pipeline.errors import DataError, SettingsError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
VALIDATION_NAMES = ("validation", "val")


@dataclass
class _Listing:
    """The files of one split, class by class, each class sorted by name."""

    paths: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # relative to the split's folder, with "/"
    labels: list[int] = field(default_factory=list)
    root: str | None = None  # links must not lead out of it; None: they may
    left_out: Counter[str] = field(default_factory=Counter)  # extension -> files

    def split(self, title: str) -> Split:
        return Split(np.asarray(self.labels, np.int32), paths=self.paths, title=title)


def open_folder(config: DataConfig) -> DataSource:
    """Lists an image folder; no image is opened.

    Raises:
      SettingsError: `data.path` is not set.
      DataError: The folder is not laid out as train/<class>/*; the message says what to change.
    """
    if config.path is None:
        raise SettingsError("data.source=image_folder needs data.path=FOLDER, with train/<class>/*")
    root = Path(config.path).expanduser()
    classes = _find_classes(root)
    real_root = None if config.links_out else os.path.realpath(root)
    listings = {"train": _list_split(root / "train", classes, real_root, must_have_all=True)}
    for split, names in (("validation", VALIDATION_NAMES), ("test", ("test",))):
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is not None:
            listings[split] = _list_split(folder, classes, real_root, must_have_all=False)
    splits = {name: listing.split(f"{root}, {name}") for name, listing in listings.items()}
    if "validation" not in splits:
        everything = splits["train"]
        held = hold_out_by_name(listings["train"].names, everything.labels, config, str(root))
        splits["train"] = everything.select(~held, everything.title)
        splits["validation"] = everything.select(held, f"{root}, validation")
    notes = tuple(
        f"{root}/{name}: {sum(listing.left_out.values())} files left out, which are not "
        f"{_known_extensions()} ({_summary(listing.left_out)})"
        for name, listing in listings.items()
        if listing.left_out
    )
    return DataSource(tuple(classes), splits, None, notes)


def open_classes(root: Path, classes: Sequence[str], config: DataConfig) -> Split:
    """The images of `root`/<class>/*, of some or all of the classes, which are known already.

    Raises:
      DataError: A folder is none of them, or there is no image.
    """
    found = _folders(root)
    unknown = sorted(set(found) - set(classes))
    if unknown or not found:
        what = f"{_listed(unknown)}, which is none of the model's classes" if found else "no folder"
        raise DataError(
            f"{root} has {what}. Expected: {root}/<class>/*, classes being {_some(classes)}"
        )
    listing = _Listing(root=None if config.links_out else os.path.realpath(root))
    _check_links(str(root), found, listing)
    for label, name in enumerate(classes):
        if name in found:
            _list_class(root, name, label, listing)
    return listing.split(str(root))


def _find_classes(root: Path) -> list[str]:
    """The class names: the folders in train/, sorted by code point, so alike on every machine."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder. Set data.path to a folder with train/<class>/*")
    train = root / "train"
    if not train.is_dir():
        names = _folders(root)
        hint = f"{root} has no folder train/. Expected: train/<class>/*, optionally test/<class>/*"
        if names:
            hint += f". It holds {_listed(names)}: if these are the classes, move them into {train}"
        raise DataError(hint)
    classes = _folders(train)
    if not classes:
        raise DataError(
            f"{train} has no folder in it. Put the images of each class into a folder of its own: "
            f"{train}/<class>/*"
        )
    if len(classes) == 1:
        raise DataError(
            f"{train} has one class only, {classes[0]!r}. A classifier needs two or more: add a "
            "folder for each further class"
        )
    return classes


def _list_split(
    folder: Path, classes: list[str], root: str | None, must_have_all: bool
) -> _Listing:
    found = _folders(folder)
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise DataError(
            f"{folder} has {_listed(unknown)}, which {folder.parent / 'train'} does not have. "
            "Classes must have the same names in both: rename or remove"
        )
    listing = _Listing(root=root)
    _check_links(str(folder.parent), [folder.name], listing)
    _check_links(str(folder), found, listing)
    for label, name in enumerate(classes):
        if name in found or must_have_all:
            _list_class(folder, name, label, listing)
    if not listing.paths:
        raise DataError(
            f"{folder} has no image in it. Expected: {folder}/<class>/*, or no such folder"
        )
    return listing


def _list_class(folder: Path, name: str, label: int, listing: _Listing) -> None:
    before, left_out = len(listing.paths), Counter[str]()
    # Folders inside a class folder belong to the class.
    for where, folders, files in os.walk(folder / name, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        _check_links(where, [*folders, *files], listing)
        for file in sorted(f for f in files if not f.startswith(".")):
            extension = os.path.splitext(file)[1].lower()
            if extension not in EXTENSIONS:
                left_out[extension or "no extension"] += 1
                continue
            path = os.path.join(where, file)
            listing.paths.append(path)
            listing.names.append(os.path.relpath(path, folder).replace(os.sep, "/"))
            listing.labels.append(label)
    if len(listing.paths) == before:
        others = f" ({_summary(left_out)} found)" if left_out else ""
        raise DataError(
            f"the class folder {folder / name} has no image in it{others}. Images are "
            f"{_known_extensions()}: put some there, or remove the folder"
        )
    listing.left_out += left_out


def _check_links(where: str, names: list[str], listing: _Listing) -> None:
    """A link out of the data set is refused: nobody would look there for what was trained on."""
    if listing.root is None:
        return
    for name in names:
        path = os.path.join(where, name)
        if os.path.islink(path):
            target = os.path.realpath(path)
            if os.path.commonpath([target, listing.root]) != listing.root:
                raise DataError(
                    f"{path} is a link to {target}, out of {listing.root}. Copy what is meant "
                    "into the folder, or allow such links with data.links_out=true"
                )


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from None


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"the folders {shown} and {len(names) - 5} more" if len(names) > 5 else f"{shown}/"


def _some(classes: Sequence[str]) -> str:
    rest = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return ", ".join(classes[:5]) + rest


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {extension}" for extension, count in counts.most_common(5))


def _known_extensions() -> str:
    return ", ".join(extension[1:] for extension in EXTENSIONS)
