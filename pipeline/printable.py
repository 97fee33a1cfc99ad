"""Text from elsewhere as text that can be printed and stored: names of files, labels, settings."""

from __future__ import annotations

import re

# Control characters, the separators at which `str.splitlines` ends a line, and the characters that
# change the direction of the text after them, with which a name can look like another one.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LONGEST = 80


def printable(name: str) -> str:
    r"""A name as valid UTF-8 text on one line.

    On Linux a file name is bytes. Python represents the bytes that are not UTF-8 as lone
    surrogates, which can be neither printed nor encoded. They are escaped: the name b"caf\xe9" is
    shown as caf\udce9. Line breaks, tabs and other control characters are escaped as well.
    """
    text = name.encode(errors="backslashreplace").decode()
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """Text of several lines, each as `printable` gives it; tabs stay."""
    return "\n".join(
        "\t".join(printable(part) for part in line.split("\t")) for line in text.split("\n")
    )


def shortened(text: str, longest: int = _LONGEST) -> str:
    """`printable` text of so many characters, with a note where there were more."""
    if len(text) <= longest:
        return printable(text)
    return f"{printable(text[:longest])}... ({len(text):,} characters)"


def received(value: object) -> str:
    """A wrong value for a message: as Python writes it, on one line and shortened."""
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{value[:_LONGEST]!r}... ({len(value):,} characters)"
    return shortened(repr(value))
