"""A list of images and labels: a CSV file with a header, or JSON Lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.split import DataSource, Split, hold_out_by_name
from pipeline.errors import DataError, SettingsError

_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_LINES = (".jsonl", ".ndjson")


class _Row(NamedTuple):
    """One line of a list: a path, relative to the list's folder, a class and a split."""

    path: str
    label: str
    split: str


def open_list(config: DataConfig) -> DataSource:
    """Reads the list that `data.path` names: path, label and optionally split of each image.

    Paths are relative to the list's folder. Without a split all are for training.

    Raises:
      SettingsError: `data.path` is not set.
      DataError: The list is missing, has no such columns, or a line of it is wrong.
    """
    if config.path is None:
        raise SettingsError("data.source=list needs data.path=FILE, a .csv or .jsonl file")
    file = Path(config.path).expanduser()
    rows = _read(file)
    classes = _classes({row.label for row in rows})
    if len(classes) < 2:
        raise DataError(
            f"{file} has one class only, {classes[0]!r}. A classifier needs two or more"
        )
    label_of = {name: label for label, name in enumerate(classes)}
    splits, names = {}, {}
    for split in dict.fromkeys(_SPLITS.values()):
        chosen = [row for row in rows if row.split == split]
        if chosen:
            labels = np.array([label_of[row.label] for row in chosen], np.int32)
            paths = [str(file.parent / row.path) for row in chosen]
            splits[split] = Split(labels, paths=paths, title=f"{file}, {split}")
            names[split] = [row.path for row in chosen]
    if "train" not in splits:
        raise DataError(f"{file} lists no image of the split train")
    if "validation" not in splits:
        train = splits["train"]
        held = hold_out_by_name(names["train"], train.labels, config, str(file))
        splits["train"] = train.select(~held, train.title)
        splits["validation"] = train.select(held, f"{file}, validation")
    return DataSource(classes, splits)


def _classes(labels: set[str]) -> tuple[str, ...]:
    """Numbers in their order, names in that of their code points."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _read(file: Path) -> list[_Row]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            lines = _json_lines(stream) if file.suffix.lower() in _LINES else _csv_lines(stream)
            rows = [_row(line, file, number) for number, line in lines]
    except OSError as error:
        raise DataError(f"cannot read the list {file}: {error.strerror}") from None
    except (csv.Error, ValueError) as error:
        raise DataError(f"{file} is no CSV or JSON Lines file in UTF-8: {error}") from None
    if not rows:
        raise DataError(f"{file} lists no image")
    return rows


def _csv_lines(stream: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(stream, strict=True)
    for line in reader:
        yield reader.line_num, line


def _json_lines(stream: Any) -> Iterator[tuple[int, Any]]:
    for number, text in enumerate(stream, start=1):
        if text.strip():
            try:
                yield number, json.loads(text)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None


def _row(line: Any, file: Path, number: int) -> _Row:
    if not isinstance(line, dict) or not {"path", "label"} <= set(line):
        has = ", ".join(str(k) for k in line) if isinstance(line, dict) else type(line).__name__
        raise DataError(
            f"{file}, line {number}: there must be a path and a label, and optionally a split "
            f"(CSV: as the header's names). Received: {has}"
        )
    path, label = (line[key] for key in ("path", "label"))
    split = line.get("split") or "train"
    if not path or label in (None, ""):
        raise DataError(f"{file}, line {number}: the path or the label is empty")
    if split not in _SPLITS:
        raise DataError(
            f"{file}, line {number}: the split must be train, validation (or val) or test. "
            f"Received: {split!r}"
        )
    return _Row(str(path), str(label), _SPLITS[split])
