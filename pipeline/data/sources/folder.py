"""Image folders: train/<class>/*, optionally validation/ and test/, or only class folders."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.config import DataConfig
from pipeline.data.sources.classes import alike_notes, class_name, class_order
from pipeline.data.sources.walk import Listing, is_folder, is_skipped
from pipeline.data.split import DataSource, Split, hold_out_by_name
from pipeline.errors import DataError, SettingsError
from pipeline.printable import printable
from pipeline.storage.limits import image_bytes
from pipeline.storage.read import list_folder, real_folder, reason, stat

EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif",
    ".jp2",
)  # fmt: skip
VALIDATION_NAMES = ("validation", "val")
_SPLIT_NAMES = ("train", *VALIDATION_NAMES, "test")
# Words in folder names that suggest a split of a data set instead of a class.
_SPLIT_WORDS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}

# A later change of a folder that was modified so shortly before it was listed might not change its
# time, because some file systems count seconds.
_SETTLED_NS = 5 * 10**9

Folders = Mapping[str, Sequence[str]]  # class name -> the folders of that class


def open_folder(config: DataConfig) -> DataSource:
    """Lists an image folder without opening images.

    If there is no train/, the folders are the classes, and some of their images are held out for
    validation.

    Raises:
      SettingsError: `data.path` is not set.
      DataError: The layout is not train/<class>/*. The message says what to change.
    """
    if config.path is None:
        raise SettingsError("data.source=image_folder needs data.path=FOLDER, with train/<class>/*")
    root = Path(config.path).expanduser()
    title = printable(str(root))
    start_ns = time.time_ns()
    folders, notes = _find_splits(root)
    times = {str(root): stat(root).st_mtime_ns}
    classes = class_order(_find_classes(folders["train"], root))
    listings = {
        name: _list_split(folder, classes, _new_listing(folder, root, config), folders["train"])
        for name, folder in folders.items()
    }
    splits = {name: listing.split(f"{title}, {name}") for name, listing in listings.items()}
    if "validation" not in splits:
        everything = splits["train"]
        held = hold_out_by_name(listings["train"].names(), everything.labels, config, title)
        splits["train"] = everything.select(~held, everything.title)
        splits["validation"] = everything.select(held, f"{title}, validation")
    notes += alike_notes(title, classes)
    for name, listing in listings.items():
        notes += _listing_notes(printable(str(folders[name])), listing)
        times |= listing.times
    settled = max(times.values()) < start_ns - _SETTLED_NS
    notes += (*_shared_notes(title, listings),)
    return DataSource(classes, splits, None, notes, folder_times=times if settled else None)


def open_classes(
    root: Path, classes: Sequence[str], config: DataConfig
) -> tuple[Split, tuple[str, ...]]:
    """Lists the images in `root`/<class>/* for some or all of the given classes.

    Returns:
      The images, and notes for the user.

    Raises:
      DataError: A folder is not one of the classes, or there are no images.
    """
    title = printable(str(root))
    found = class_folders(root)
    label_of = {class_name(name): label for label, name in enumerate(classes)}
    unknown = sorted(set(found) - set(label_of))
    if unknown or not found:
        what = f"{_listed(unknown)}, not among the model's classes" if found else "no folder"
        raise DataError(
            f"{title} has {what}. Expected: {title}/<class>/*, with the classes {_some(classes)}"
        )
    listing = _new_listing(root, root, config)
    for name, label in label_of.items():
        if name in found:
            _list_class(found[name], label, listing)
    listing.drop_repeated()
    return listing.split(title), _listing_notes(title, listing)


def has_class_folders(root: Path) -> bool:
    """Whether a folder without train/ consists of two or more class folders with images."""
    try:
        found = class_folders(root)
        _refuse_splits(root, found)
    except DataError:
        return False
    first = sorted(name for names in found.values() for name in names)[:3]
    return len(found) > 1 and any(_holds_image(root / name) for name in first)


def class_folders(folder: Path) -> dict[str, list[str]]:
    """Returns the subfolders, sorted, by class name.

    Raises:
      DataError: The folder cannot be listed, or two different names become the same class name.
    """
    found: dict[str, list[str]] = {}
    for name in _folders(folder):
        try:
            same = found.setdefault(class_name(name), [])
        except ValueError:
            raise DataError(f"{printable(str(folder))} has a folder with a blank name") from None
        if same and same[0].strip() != name.strip():
            raise DataError(
                f"{printable(str(folder))} has two folders with the same class name "
                f"{class_name(name)!r}. Rename one of them"
            )
        same.append(name)
    return found


def _find_splits(root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Returns the folder of each split, and notes for the user about the layout."""
    title = printable(str(root))
    if not root.is_dir():
        raise DataError(f"{title} is not a folder. Set data.path to a folder with train/<class>/*")
    if not (root / "train").is_dir():
        return {"train": root}, _class_folders_note(root)
    splits, notes = {"train": root / "train"}, list[str]()
    for split, names in (("validation", VALIDATION_NAMES), ("test", ("test",))):
        found = [root / name for name in names if (root / name).is_dir()]
        if found:
            splits[split] = found[0]
        if len(found) > 1:
            notes.append(
                f"{title} has {found[0].name}/ and {found[1].name}/; the latter is not used"
            )
    return splits, tuple(notes)


def _class_folders_note(root: Path) -> tuple[str, ...]:
    """Returns the note about a folder without train/.

    Raises:
      DataError: Its subfolders are not classes.
    """
    title = printable(str(root))
    above = _split_above(root)
    folders = class_folders(root)
    there = [name for name in _SPLIT_NAMES if name in folders]
    if there or len(folders) < 2:
        hint = f"{title} has no folder train/. Expected: train/<class>/*, optionally test/<class>/*"
        inner = [name for names in folders.values() for name in names]
        inner = [name for name in inner if (root / name / "train").is_dir()]
        if above is not None:
            hint += f". Did you mean data.path={printable(str(above))}?"
        elif inner:
            hint += f". Did you mean data.path={printable(str(root / inner[0]))}?"
        elif folders:
            hint += f". It contains {_listed(sorted(folders))}; if these are classes, move them "
            hint += f"to {title}/train"
        raise DataError(hint)
    _refuse_splits(root, folders)
    if above is not None:
        return (
            (
                f"{title} is one split of a data set. Some of it is held out for validation. Set "
                f"data.path={printable(str(above))} to use all splits of the data set"
            ),
        )
    return (
        (
            f"{title} has no folder train/. Its {len(folders):,} folders are the classes, and part "
            "of each class is held out for validation"
        ),
    )


def _split_above(root: Path) -> Path | None:
    """Returns the data set that contains a folder of a split or class.

    For example, it returns photos for photos/train/cat.
    """
    absolute = root.absolute()
    for level, folder in enumerate((absolute, *absolute.parents)):
        if folder.name in _SPLIT_NAMES and (folder.parent / "train").is_dir():
            return root.parents[level] if level < len(root.parents) else folder.parent
    return None


def _refuse_splits(root: Path, folders: Folders) -> None:
    """Refuses folders that are splits with other names, such as Training/ and Testing/."""
    like = [name for name in folders if _SPLIT_WORDS & set(re.split(r"[^a-z]+", name.lower()))]
    nested = [name for name in like if len(_folders(root / folders[name][0])) > 1]
    if nested or (like and len(like) == len(folders)):
        raise DataError(
            f"{printable(str(root))} has no folder train/, and {_listed(nested or like)} seem to "
            "be splits rather than classes. Name the splits train/, validation/ and test/, each "
            "with one folder per class. If they are classes, move them to train/"
        )


def _find_classes(train: Path, root: Path) -> Folders:
    title = printable(str(train))
    classes = class_folders(train)
    if not classes:
        raise DataError(
            f"{title} contains no folders. Put the images of each class in a separate folder: "
            f"{printable(str(root))}/train/<class>/*"
        )
    if len(classes) == 1:
        raise DataError(
            f"{title} has only one class, {next(iter(classes))!r}. A classifier needs at least "
            "two. Add a folder for each class"
        )
    return classes


def _new_listing(folder: Path, root: Path, config: DataConfig) -> Listing:
    below = None if config.links_out else real_folder(root)
    return Listing(str(folder), EXTENSIONS, below, image_bytes(config.max_pixels))


def _list_split(folder: Path, classes: Sequence[str], listing: Listing, train: Path) -> Listing:
    title = printable(str(folder))
    found = class_folders(folder)
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise DataError(
            f"{title} has {_listed(unknown)}, which {printable(str(train))} does not have. "
            "The classes must have the same names in both. Rename or remove folders"
        )
    listing.check_link(str(folder))
    for label, name in enumerate(classes):
        if name in found:
            _list_class(found[name], label, listing)
    if not len(listing):
        raise DataError(
            f"{title} contains no images. Put images in {title}/<class>/*, or remove the folder"
        )
    listing.drop_repeated()
    _count_beside(folder, listing)
    return listing


def _count_beside(folder: Path, listing: Listing) -> None:
    """Counts entries next to the class folders that are not used."""
    for entry in list_folder(folder):
        if is_folder(entry):
            if is_skipped(entry.name):
                listing.skipped[printable(entry.name)] += 1
        elif entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith("."):
            listing.left_out["images outside the class folders"] += 1


def _list_class(names: Sequence[str], label: int, listing: Listing) -> None:
    before, repeated, left_out = len(listing), len(listing.repeated), Counter[str]()
    for name in names:
        left_out += listing.add_class(name, label)
    if len(listing) > before:
        return
    others = f" ({_summary(left_out)} found)" if left_out else ""
    if len(listing.repeated) > repeated:
        path, other = map(printable, listing.repeated[repeated])
        others = f" of its own: {path} is the same folder as {other}"
    title = printable(os.path.join(listing.folder, names[0]))
    raise DataError(
        f"the class folder {title} contains no images{others}. Supported extensions are "
        f"{_known_extensions()}. Add images, or remove the folder"
    )


def _listing_notes(title: str, listing: Listing) -> tuple[str, ...]:
    """Returns notes about files and folders of a split that were left out."""
    notes = []
    if listing.left_out:
        count = sum(listing.left_out.values())
        notes.append(
            f"{title}: {count:,} files left out ({_summary(listing.left_out)}). Only files in "
            f"class folders with these extensions are used: {_known_extensions()}"
        )
    if listing.skipped:
        count = sum(listing.skipped.values())
        notes.append(f"{title}: {count:,} folders skipped ({_summary(listing.skipped)})")
    if listing.repeated:
        notes.append(
            f"{title}: {len(listing.repeated):,} links left out, because their targets are already "
            f"listed: {_pair(listing.repeated[0])}"
        )
    if listing.conflicts:
        notes.append(
            f"{title}: {len(listing.conflicts):,} of these links are in a different class than the "
            f"file: {_pair(listing.conflicts[0])}. The class of the latter is used"
        )
    return tuple(notes)


def _shared_notes(title: str, listings: Mapping[str, Listing]) -> Iterable[str]:
    """Yields a note for each pair of splits that share files through links or hard links."""
    names = list(listings)
    for place, name in enumerate(names):
        for other in names[:place]:
            shared = listings[name].shared_with(listings[other])
            if shared:
                yield (
                    f"{title}: {len(shared):,} files of {name} are also in {other}, through links "
                    f"or hard links: {_pair(shared[0])}. Results on them do not show how well the "
                    "model generalizes"
                )


def _folders(folder: Path) -> list[str]:
    try:
        return [e.name for e in list_folder(folder) if not is_skipped(e.name) and is_folder(e)]
    except OSError as error:
        raise DataError(f"cannot list {printable(str(folder))}: {reason(error)}") from None


def _holds_image(folder: Path) -> bool:
    """Whether a folder or one of its subfolders contains an image."""
    for _, folders, files in os.walk(folder):
        if any(os.path.splitext(name)[1].lower() in EXTENSIONS for name in files):
            return True
        folders[:] = folders[:3]
    return False


def _pair(pair: tuple[str, str]) -> str:
    path, other = map(printable, pair)
    return f"{path} is {other}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"the folders {shown} and {len(names) - 5} more" if len(names) > 5 else f"{shown}/"


def _some(classes: Sequence[str]) -> str:
    rest = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return ", ".join(classes[:5]) + rest


def _summary(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(counts).most_common(5))


def _known_extensions() -> str:
    return ", ".join(extension[1:] for extension in EXTENSIONS)
