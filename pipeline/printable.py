"""Text from elsewhere as text that can be printed and stored: names of files, labels, settings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TextIO

# Control characters, the separators at which `str.splitlines` ends a line, and the characters that
# change the direction of the text after them, with which a name can look like another one.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# The same without line breaks and tabs, which only lay text out.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
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
    r"""Text of several lines, each as `printable` gives it; tabs stay.

    No character is left that a terminal obeys: escape sequences move the cursor, hide text, and set
    the title and the clipboard. They are shown as text: \x1b[2J.
    """
    text = text.encode(errors="backslashreplace").decode()
    return _COMMANDS.sub(lambda found: repr(found[0])[1:-1], text)


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


class EscapedStream:
    """A text stream through which everything is written as `printable_lines` gives it.

    Args:
      stream: What it is written to.

    Attributes:
      rich_proxied_file: The stream below, to which rich writes colours and cursor movements.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.rich_proxied_file = getattr(stream, "rich_proxied_file", stream)
        if isinstance(self.rich_proxied_file, EscapedStream):
            self.rich_proxied_file = self.rich_proxied_file.rich_proxied_file

    def write(self, text: str) -> int:
        """Writes text; returns the number of its characters."""
        self._stream.write(printable_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each of the lines, to which no line break is added."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
