"""Class names: which labels are valid, and the order of the classes."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Iterable
from fractions import Fraction

from pipeline.printable import printable

# Longer numbers are sorted as text, because `int` refuses to parse thousands of digits.
_INTEGER = re.compile(r"-?[0-9]{1,1000}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,1000}(\.[0-9]{0,1000})?")
_MISSING = ("nan", "<na>", "null")
_SHOWN = 3


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorts class names in the order of their labels, which depends only on the set of names.

    Image folders, lists and folders of class folders use this order, and `vit prepare` keeps it. If
    all names are decimal integers, they are sorted numerically, and names with equal values (1 and
    01) by code point. Otherwise all names are sorted by code point.
    """
    unique = set(names)
    if all(_INTEGER.fullmatch(name) for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def class_name(label: object) -> str:
    """Returns the class name for a label: its text, stripped and made `printable`.

    An integer and its decimal text are the same class.

    Raises:
      ValueError: The label is blank, or neither text nor an integer.
    """
    if isinstance(label, bool) or not isinstance(label, (str, int)):
        raise ValueError(f"the label must be text or an integer. Received: {reprlib.repr(label)}")
    text = str(label).strip()
    if not text:
        raise ValueError("the label is empty")
    return printable(text)


def alike_notes(title: str, classes: Iterable[str]) -> tuple[str, ...]:
    """Returns warnings about classes that are probably the same class, or a missing label.

    Args:
      title: The name of the data set in the warnings.
      classes: Class names.
    """
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(_skeleton(name), []).append(name)
    alike = [names for names in groups.values() if len(names) > 1]
    missing = [name for name in classes if name.lower() in _MISSING]
    notes: tuple[str, ...] = ()
    if alike:
        shown = "; ".join(", ".join(map(repr, names)) for names in alike[:_SHOWN])
        more = f"; and {len(alike) - _SHOWN} more groups" if len(alike) > _SHOWN else ""
        notes += (
            (
                f"{title}: class names differ only in case, blanks, accents or number format: "
                f"{shown}{more}. They count as different classes. "
                "Rename them if they are the same class"
            ),
        )
    if missing:
        notes += (
            (
                f"{title}: {', '.join(map(repr, missing))} is a class. If it stands for a missing "
                "label, remove these images"
            ),
        )
    return notes


def _skeleton(name: str) -> str:
    """Returns a normal form that is equal for class names that look alike."""
    if _NUMBER.fullmatch(name):
        return str(Fraction(name))
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
