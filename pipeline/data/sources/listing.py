"""Lists of images and labels: CSV files with a header, JSON Lines, or JSON arrays of objects."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.sources.classes import alike_notes, class_name, class_order
from pipeline.data.split import DataSource, Split, hold_out_by_name
from pipeline.errors import DataError, SettingsError
from pipeline.printable import printable
from pipeline.storage.limits import LIST_BYTES, image_bytes
from pipeline.storage.read import RealFolder, read_file, real_folder, reason
from pipeline.strict_json import read_json

_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_JSON = (".json", ".jsonl", ".ndjson")


class _Row(NamedTuple):
    """One image of a list: its path relative to the list's folder, its class and its split."""

    path: str
    label: str
    split: str


def open_list(config: DataConfig) -> DataSource:
    """Reads the list in `data.path`, with path, label and optionally split of each image.

    Paths are relative to the list's folder. They may lead outside it only with
    `data.links_out=true`. Images without a split are for training.

    Raises:
      SettingsError: `data.path` is not set.
      DataError: The list is missing, lacks a column, or has an invalid line.
    """
    if config.path is None:
        raise SettingsError("data.source=list needs data.path=FILE, a .csv, .jsonl or .json file")
    file = Path(config.path).expanduser()
    title = printable(str(file))
    rows = _read(file, title)
    root = None if config.links_out else real_folder(file.parent)
    if root is not None:
        _check_inside(rows, file.parent, root, title)
    classes = class_order(row.label for row in rows)
    if len(classes) < 2:
        raise DataError(
            f"{title} has only one class, {classes[0]!r}. A classifier needs at least two"
        )
    label_of = {name: label for label, name in enumerate(classes)}
    splits, names = {}, {}
    for split in dict.fromkeys(_SPLITS.values()):
        chosen = [row for row in rows if row.split == split]
        if chosen:
            labels = np.array([label_of[row.label] for row in chosen], np.int32)
            paths = [str(file.parent / row.path) for row in chosen]
            splits[split] = Split(
                labels,
                paths=paths,
                title=f"{title}, {split}",
                root=root,
                limit_bytes=image_bytes(config.max_pixels),
            )
            names[split] = [row.path for row in chosen]
    if "train" not in splits:
        raise DataError(f"{title} lists no images of the split train")
    if "validation" not in splits:
        train = splits["train"]
        held = hold_out_by_name(names["train"], train.labels, config, title)
        splits["train"] = train.select(~held, train.title)
        splits["validation"] = train.select(held, f"{title}, validation")
    notes = (*alike_notes(title, classes), *_repeated(title, rows))
    return DataSource(classes, splits, None, notes)


def _check_inside(rows: Sequence[_Row], folder: Path, root: RealFolder, title: str) -> None:
    """Refuses paths that lead outside the list's folder. Links are checked when a file is read.

    Raises:
      DataError: There is such a path; the message names the first one.
    """
    prefixes = tuple(os.path.join(os.path.abspath(place), "") for place in (folder, root))
    for row in rows:
        if not row.path.startswith("/") and ".." not in row.path:
            continue
        path = os.path.abspath(folder / row.path)
        # `realpath` accesses the storage. It is needed only if the folder has another name.
        if not path.startswith(prefixes) and not os.path.realpath(path).startswith(prefixes):
            raise DataError(
                f"{title} lists {printable(row.path)}, which is outside the list's folder "
                f"{printable(root)}. Put the list in a folder that contains all images, or allow "
                "such paths with data.links_out=true"
            )


def _repeated(title: str, rows: Sequence[_Row]) -> tuple[str, ...]:
    """Returns warnings about paths that are listed with two labels or in two splits."""
    first: dict[str, _Row] = {}
    labels: list[str] = []
    splits: list[str] = []
    for row in rows:
        other = first.setdefault(os.path.normpath(row.path), row)
        if other.label != row.label:
            labels.append(f"{printable(row.path)} as {other.label!r} and as {row.label!r}")
        if other.split != row.split:
            splits.append(f"{printable(row.path)} in {other.split} and in {row.split}")
    return tuple(
        f"{title}: {len(found):,} lines list an image again with another {what}, for example "
        f"{found[0]}"
        for what, found in (("label", labels), ("split", splits))
        if found
    )


def _read(file: Path, title: str) -> list[_Row]:
    try:
        stream = io.StringIO(
            read_file(file, limit_bytes=LIST_BYTES).decode("utf-8-sig"), newline=""
        )
        is_json = file.suffix.lower() in _JSON
        entries = _json_entries(stream, title) if is_json else _csv_entries(stream, title)
        rows = [_row(entry, where) for where, entry in entries]
    except OSError as error:
        raise DataError(f"cannot read the list {title}: {reason(error)}") from None
    except (csv.Error, ValueError) as error:
        raise DataError(f"{title} is not a valid CSV or JSON file in UTF-8: {error}") from None
    if not rows:
        raise DataError(f"{title} lists no images")
    return rows


def _csv_entries(stream: TextIO, title: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Blanks after a comma do not belong to the value, and a quote may follow them.
    reader = csv.reader(stream, strict=True, skipinitialspace=True)
    header: list[str] = []
    try:
        for fields in reader:
            if not any(fields):
                continue  # spreadsheets write empty rows below a table
            where = f"{title}, line {reader.line_num}"
            if not header:
                header = [name.strip() for name in fields]
                _check_header(header, where)
            elif len(fields) != len(header):
                raise DataError(
                    f"{where}: the line has {len(fields)} fields, but the header has "
                    f"{len(header)}. A value that contains a comma must be quoted"
                )
            else:
                yield where, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None


def _check_header(header: Sequence[str], where: str) -> None:
    if not {"path", "label"} <= set(header):
        raise DataError(
            f"{where}: the header must name the columns path and label, and optionally split, "
            f"separated by commas. Received: {printable(', '.join(header))}"
        )
    if repeated := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise DataError(f"{where}: the header names the column {repeated[0]!r} twice")


def _json_entries(stream: TextIO, title: str) -> Iterator[tuple[str, Any]]:
    if title.lower().endswith(".json"):
        text = stream.read()
        if text.lstrip().startswith("["):
            for number, entry in enumerate(_parse(text), start=1):
                yield f"{title}, entry {number}", entry
            return
        stream.seek(0)
    for number, text in enumerate(stream, start=1):
        if text.strip():
            try:
                yield f"{title}, line {number}", _parse(text)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None


def _parse(text: str) -> Any:
    return read_json(text, object_pairs_hook=_unique)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object and refuses duplicate keys, of which `json` would keep the last."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} appears twice")
    return entry


def _row(entry: Any, where: str) -> _Row:
    if not isinstance(entry, Mapping) or not {"path", "label"} <= set(entry):
        has = ", ".join(entry) if isinstance(entry, Mapping) else type(entry).__name__
        raise DataError(
            f"{where}: path and label are required, and split is optional. Received: "
            f"{printable(has)}"
        )
    path, split = entry["path"], entry.get("split")
    if not isinstance(path, str) or not path.strip() or not _can_be_a_path(path):
        raise DataError(f"{where}: the path must be a file name. Received: {path!r:.100}")
    try:
        label = class_name(entry["label"])
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    name = split.strip() if isinstance(split, str) else split
    if name in (None, ""):
        name = "train"
    if not isinstance(name, str) or name not in _SPLITS:
        raise DataError(
            f"{where}: the split must be train, validation (or val) or test. Received: "
            f"{split!r:.100}"
        )
    return _Row(path, label, _SPLITS[name])


def _can_be_a_path(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
