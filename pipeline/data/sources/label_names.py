"""Names for the labels of TFRecord files, which are integers that begin at 0 or at 1.

A file alone does not always say which: a set whose lowest label is 1 may number its classes from 1,
or have no example of class 0. What is not certain is refused, with both readings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pipeline.data.sources.classes import class_name
from pipeline.errors import DataError
from pipeline.storage.limits import NAMES_BYTES
from pipeline.storage.read import read_file, reason

# TFDS's file always counts from 0: https://www.tensorflow.org/datasets/external_tfrecord
_FROM_0 = "label.labels.txt"
_CLASS_FILES = (_FROM_0, "labels.txt", "classes.txt")
# TF-Slim's lines, as 0:background. https://github.com/tensorflow/models, dataset_utils.py
_NUMBERED = re.compile(r"(\d{1,9}):(.*)")
_NUMBER_LINES = "Where no setting can be given, number the lines of labels.txt, as 0:cat"
_UNUSED = ("background", "__background__", "_background_", "unused", "dummy")


class _Names(NamedTuple):
    """A file of class names.

    Attributes:
      path: The file.
      names: In the order of their labels.
      first: The label of the first name, where the file says it.
    """

    path: Path
    names: tuple[str, ...]
    first: int | None


def describes_labels(root: Path) -> bool:
    """Whether a file there says which label each name has."""
    found = _find_names(root.expanduser())
    return found is not None and found.first is not None


def class_names(
    root: Path, lowest: int, highest: int, first_label: int | None
) -> tuple[tuple[str, ...], int]:
    """The class names, and the label of the first of them: 0 or 1.

    Args:
      root: The folder of the files.
      lowest, highest: Labels that occur.
      first_label: `data.first_label`, or what a run recorded; None: what is certain.

    Raises:
      DataError: The labels fit neither reading, or both; or the file of names does not fit.
    """
    if lowest < 0:
        raise DataError(f"{root}: labels must not be negative. Received: {lowest}")
    found = _find_names(root)
    stated = None if found is None else found.first
    if None not in (first_label, stated) and first_label != stated:
        raise DataError(
            f"{found.path if found else root} gives the first class label {stated}, but "
            f"data.first_label={first_label}. Correct one of them"
        )
    first = stated if first_label is None else first_label
    if first is None:
        first = _certain_first(root, lowest, highest, found)
    if lowest < first:
        raise DataError(
            f"{root}: the lowest label is {lowest}, but class 0 has label {first}. Set "
            f"data.first_label={lowest}, or correct the file of class names"
        )
    count = highest - first + 1
    if found is None:
        return tuple(str(label) for label in range(count)), first
    if len(found.names) < count:
        raise DataError(
            f"{found.path} names {len(found.names)} classes, but there are {count} labels: "
            f"{first} to {highest}"
        )
    return found.names, first


def _certain_first(root: Path, lowest: int, highest: int, found: _Names | None) -> int:
    """The label of class 0 where only one reading is possible."""
    if lowest == 0:
        return 0
    if found is None:
        raise DataError(
            f"{root}: the labels are {lowest} to {highest}, and no file names the classes. Either "
            f"label {lowest} is class {lowest} of {highest + 1}, and label 0 does not occur: set "
            f"data.first_label=0; or label {lowest} is class {lowest - 1} of {highest}: set "
            f"data.first_label=1. {_NUMBER_LINES}"
        )
    names = found.names
    if highest >= len(names):
        return 1  # that this suffices is checked by the caller
    if names[0].casefold() in _UNUSED:
        return 0
    raise DataError(
        f"{root}: the labels are {lowest} to {highest}, and {found.path.name} has {len(names)} "
        f"lines. Either label {lowest} is {names[lowest]!r}, and label 0, {names[0]!r}, does not "
        f"occur: set data.first_label=0; or label {lowest} is {names[lowest - 1]!r}: set "
        f"data.first_label=1. {_NUMBER_LINES}"
    )


def _find_names(root: Path) -> _Names | None:
    path = next((p for p in (root / name for name in _CLASS_FILES) if p.is_file()), None)
    if path is None:
        return None
    try:
        text = (
            read_file(path, limit_bytes=NAMES_BYTES)
            .decode("utf-8-sig", "surrogateescape")
            .replace("\r\n", "\n")
        )
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from None
    lines = text.rstrip().split("\n")
    matches = [_NUMBERED.fullmatch(line.strip()) for line in lines]
    numbers = [int(match[1]) for match in matches if match]
    # Numbers in any other order are part of the names.
    if numbers and numbers[0] in (0, 1) and numbers == list(
        range(numbers[0], numbers[0] + len(lines))
    ):  # fmt: skip
        named = [match[2] for match in matches if match]
        return _Names(path, _check_names(path, named), numbers[0])
    return _Names(path, _check_names(path, lines), 0 if path.name == _FROM_0 else None)


def _check_names(path: Path, lines: list[str]) -> tuple[str, ...]:
    """The class names of a file, one per line."""
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            name = class_name(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        if name in numbers:
            raise DataError(
                f"{path}, line {number}: {name!r} is the name of line {numbers[name]} too. Give "
                "each class a name of its own"
            )
        numbers[name] = number
    return tuple(numbers)
