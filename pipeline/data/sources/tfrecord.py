"""TFRecord files of tf.Examples as a data source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import DataConfig
from pipeline.data.sources.classes import alike_notes
from pipeline.data.sources.label_names import class_names
from pipeline.data.sources.shards import ShardRecords
from pipeline.data.sources.tfrecord_index import Index, find_changed, find_index, packed, unpacked
from pipeline.data.sources.tfrecord_shard import TFRecordShard
from pipeline.data.split import DataSource, Split, check_labels, hold_out_by_name
from pipeline.errors import DataError, SettingsError
from pipeline.printable import printable
from pipeline.storage.read import stat

_SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_IS_SHARD = re.compile(r"\.tfrecords?\b|-\d{5}-of-\d{5}$")
_OF = re.compile(r"^(.*)-(\d{5})-of-(\d{5})$")


def is_tfrecord(path: Path) -> bool:
    """Whether a path is a file with the name of a TFRecord shard."""
    return bool(_IS_SHARD.search(path.name)) and path.is_file()


def scan_tfrecord(config: DataConfig) -> dict[str, Any]:
    """Scans the files of each split on behalf of other processes.

    Returns:
      The files with their sizes, and the index, as a value that can be written as JSON.

    Raises:
      SettingsError, DataError: As for `open_tfrecord`.
    """
    root = _root(config)
    return {
        name: {
            "files": _sizes(root, paths),
            "index": packed(find_index(root, name, paths, config)),
        }
        for name, paths in _find_files(root).items()
    }


def open_tfrecord(config: DataConfig, scanned: dict[str, Any] | None = None) -> DataSource:
    """Opens the TFRecord files in `data.path`, with train, validation or test in their paths.

    Args:
      config: The data settings.
      scanned: The result of `scan_tfrecord` in another process; None to read or build the index
        here.

    Raises:
      SettingsError: `data.path` is not set.
      DataError: There are no files, a file is missing, compressed or truncated, or the records
        lack a feature.
    """
    root = _root(config)
    files = _find_files(root)
    if scanned is None:
        indexes = {name: find_index(root, name, paths, config) for name, paths in files.items()}
    else:
        _check_files(root, files, scanned)
        sizes = {name: tuple(scanned[name]["files"].values()) for name in files}
        indexes = {name: unpacked(scanned[name]["index"], sizes[name]) for name in files}
        for name, paths in files.items():
            changed = find_changed(paths, indexes[name])
            if changed is not None:
                raise DataError(
                    f"{printable(str(changed))} has different records here than on rank 0. All "
                    "hosts need the same files"
                )
    lowest = min(int(index.labels.min()) for index in indexes.values())
    highest = max(int(index.labels.max()) for index in indexes.values())
    classes, first = class_names(root, lowest, highest, config.first_label)
    notes = alike_notes(str(root), classes)
    if first:
        notes += (f"{root}: label {first} is class 0, so {first} is subtracted from each label",)
    splits = {
        name: Split(
            check_labels(index.labels - first, len(classes), f"{root}, {name}"),
            title=f"{root}, {name}",
            records=ShardRecords(
                tuple(map(str, files[name])), index.shard, index.start,
                TFRecordShard, config.tfrecord_image_key,
            ),
        )
        for name, index in indexes.items()
    }  # fmt: skip
    if "validation" not in splits:
        splits |= _held_out(splits["train"], files["train"], indexes["train"], config, str(root))
    return DataSource(classes, splits, None, notes, first_label=first)


def _root(config: DataConfig) -> Path:
    if config.path is None:
        raise SettingsError("data.source=tfrecord needs data.path=FOLDER, with TFRecord files")
    return Path(config.path).expanduser()


def _sizes(root: Path, paths: Sequence[Path]) -> dict[str, int]:
    return {str(path.relative_to(root)): stat(path).st_size for path in paths}


def _check_files(root: Path, files: dict[str, list[Path]], scanned: dict[str, Any]) -> None:
    """Refuses files that differ from those for which the index was built."""
    own = {name: _sizes(root, paths) for name, paths in files.items()}
    there = {name: split["files"] for name, split in scanned.items()}
    if own != there:
        mine, theirs = (
            {file: size for split in sizes.values() for file, size in split.items()}
            for sizes in (own, there)
        )
        file = min(f for f in mine.keys() | theirs.keys() if mine.get(f) != theirs.get(f))
        here, chief = (
            "is missing" if size is None else f"has {size:,} bytes"
            for size in (mine.get(file), theirs.get(file))
        )
        raise DataError(
            f"{printable(str(root / file))} {here} here and {chief} on rank 0. All hosts need the "
            "same files"
        )


def _held_out(
    train: Split, files: Sequence[Path], index: Index, config: DataConfig, title: str
) -> dict[str, Split]:
    names = (f"{files[s].name}:{p}" for s, p in zip(index.shard, index.start, strict=True))
    held = hold_out_by_name(names, train.labels, config, title)
    return {
        "train": train.select(~held, train.title),
        "validation": train.select(held, f"{title}, validation"),
    }


def _find_files(root: Path) -> dict[str, list[Path]]:
    """Returns the shards of each split, sorted by name."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Set data.path to a folder with TFRecord files")
    splits: dict[str, list[Path]] = {}
    for path in sorted(path for path in root.rglob("*") if is_tfrecord(path)):
        words = re.split(r"[^a-z]+", str(path.relative_to(root)).lower())
        names = {_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES}
        if len(names) != 1:
            raise DataError(
                f"{path}: its name or folder must contain one of train, validation (or val) and "
                "test"
            )
        splits.setdefault(names.pop(), []).append(path)
    if "train" not in splits:
        raise DataError(
            f"{root} has no training shards. Expected names like train-00000-of-01024 or "
            "train/any.tfrecord"
        )
    for paths in splits.values():
        _check_complete(paths)
    return splits


def _check_complete(paths: Sequence[Path]) -> None:
    """Checks that all shards exist if their names state the number of shards."""
    found: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if match := _OF.match(str(path)):
            found.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, count), numbers in found.items():
        if missing := sorted(set(range(count)) - numbers):
            raise DataError(
                f"{len(missing)} of {count} shards are missing, the first is "
                f"{stem}-{missing[0]:05d}-of-{count:05d}"
            )
