"""Class names for the labels of TFRecord files, which are integers starting at 0 or 1.

The files do not always show where the labels start: if the lowest label is 1, the labels may start
at 1, or class 0 may have no examples. If this is ambiguous, an error explains both possibilities.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pipeline.data.sources.classes import class_name
from pipeline.errors import DataError
from pipeline.storage.limits import NAMES_BYTES
from pipeline.storage.read import read_file, reason

# The labels in a file of TFDS always start at 0:
# https://www.tensorflow.org/datasets/external_tfrecord
_FROM_0 = "label.labels.txt"
_CLASS_FILES = (_FROM_0, "labels.txt", "classes.txt")
# Lines as in TF-Slim, such as 0:background. https://github.com/tensorflow/models, dataset_utils.py
_NUMBERED = re.compile(r"(\d{1,9}):(.*)")
_NUMBER_LINES = "For a command without settings, number the lines of labels.txt, as in 0:cat"
_UNUSED = ("background", "__background__", "_background_", "unused", "dummy")


class _Names(NamedTuple):
    """A file of class names.

    Attributes:
      path: The file.
      names: Class names in the order of their labels.
      first: The label of the first name, if the file states it.
    """

    path: Path
    names: tuple[str, ...]
    first: int | None


def describes_labels(root: Path) -> bool:
    """Whether the folder has a file of class names that states their labels."""
    found = _find_names(root.expanduser())
    return found is not None and found.first is not None


def class_names(
    root: Path, lowest: int, highest: int, first_label: int | None
) -> tuple[tuple[str, ...], int]:
    """Returns the class names and the label of the first class, 0 or 1.

    Args:
      root: The folder of the files.
      lowest, highest: The lowest and highest label in the files.
      first_label: `data.first_label`, or the value that a run recorded; None to detect it.

    Raises:
      DataError: The label of the first class is ambiguous, or the file of class names does not
        match the labels.
    """
    if lowest < 0:
        raise DataError(f"{root}: labels must not be negative. Received: {lowest}")
    found = _find_names(root)
    stated = None if found is None else found.first
    if None not in (first_label, stated) and first_label != stated:
        raise DataError(
            f"{found.path if found else root} says that the first class has label {stated}, but "
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
            f"{found.path} names {len(found.names)} classes, but there are {count} labels, "
            f"{first} to {highest}"
        )
    return found.names, first


def _certain_first(root: Path, lowest: int, highest: int, found: _Names | None) -> int:
    """Returns the label of class 0 if it is unambiguous."""
    if lowest == 0:
        return 0
    if found is None:
        raise DataError(
            f"{root}: the labels are {lowest} to {highest}, and no file names the classes. If "
            f"label {lowest} is class {lowest} of {highest + 1} and label 0 does not occur, set "
            f"data.first_label=0. If label {lowest} is class {lowest - 1} of {highest}, set "
            f"data.first_label=1. {_NUMBER_LINES}"
        )
    names = found.names
    if highest >= len(names):
        return 1  # the caller checks that there are enough names
    if names[0].casefold() in _UNUSED:
        return 0
    raise DataError(
        f"{root}: the labels are {lowest} to {highest}, and {found.path.name} has {len(names)} "
        f"lines. If label {lowest} is {names[lowest]!r} and label 0, {names[0]!r}, does not "
        f"occur, set data.first_label=0. If label {lowest} is {names[lowest - 1]!r}, set "
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
    # Numbers in any other order belong to the names.
    if numbers and numbers[0] in (0, 1) and numbers == list(
        range(numbers[0], numbers[0] + len(lines))
    ):  # fmt: skip
        named = [match[2] for match in matches if match]
        return _Names(path, _check_names(path, named), numbers[0])
    return _Names(path, _check_names(path, lines), 0 if path.name == _FROM_0 else None)


def _check_names(path: Path, lines: list[str]) -> tuple[str, ...]:
    """Returns the class names in a file, one per line."""
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            name = class_name(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        if name in numbers:
            raise DataError(
                f"{path}, line {number}: {name!r} is also on line {numbers[name]}. Give each class "
                "a different name"
            )
        numbers[name] = number
    return tuple(numbers)
