"""Class names: which labels are accepted, and in which order the classes stand."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from collections.abc import Iterable
from fractions import Fraction

from pipeline.printable import printable

# Longer numbers are ordered as text: `int` refuses to parse thousands of digits.
_INTEGER = re.compile(r"-?[0-9]{1,1000}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,1000}(\.[0-9]{0,1000})?")
_MISSING = ("nan", "<na>", "null")
_SHOWN = 3


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """The classes in the order of their labels: a function of the set of names only.

    Image folders, lists and folders of class folders use this order, and `vit prepare` keeps it. If
    all names are decimal integers, the order is numeric, and names with equal values (1 and 01) are
    in code-point order. Otherwise all names are in code-point order.
    """
    unique = set(names)
    if all(_INTEGER.fullmatch(name) for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def class_name(label: object) -> str:
    """The class that a label names: its text without surrounding blanks, as `printable` shows it.

    An integer names the same class as its decimal text.

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
    """Warnings about classes that are probably one class, or none.

    Args:
      title: What the warnings call the data set.
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
            f"{title}: class names differ only in case, blanks, accents or number format: {shown}"
            f"{more}. Each is a class of its own. Rename them if they are one class",
        )
    if missing:
        notes += (
            f"{title}: {', '.join(map(repr, missing))} is a class. If it stands for a missing "
            "label, remove these images",
        )
    return notes


def _skeleton(name: str) -> str:
    """What class names that look alike have in common."""
    if _NUMBER.fullmatch(name):
        return str(Fraction(name))
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
