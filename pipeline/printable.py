"""Makes untrusted text, such as file names, labels and settings, safe to print and store."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TextIO

# Control characters, the separators at which `str.splitlines` splits, and characters that change
# the direction of the following text and can make one name look like another.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# The same, except line breaks and tabs.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LONGEST = 80


def printable(name: str) -> str:
    r"""Returns a name as valid UTF-8 text on one line.

    On Linux a file name is a sequence of bytes. Python represents bytes that are not UTF-8 as lone
    surrogates, which can be neither printed nor encoded. They are escaped: the name b"caf\xe9"
    becomes caf\udce9. Line breaks, tabs and other control characters are escaped as well.
    """
    text = name.encode(errors="backslashreplace").decode()
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    r"""Applies `printable` to each line of a text, but keeps tabs.

    The result contains no terminal escape sequences, which could move the cursor, hide text, or set
    the title or the clipboard. They become visible text: \x1b[2J.
    """
    text = text.encode(errors="backslashreplace").decode()
    return _COMMANDS.sub(lambda found: repr(found[0])[1:-1], text)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Returns `printable` text of limited length, with a note if it was truncated."""
    if len(text) <= longest:
        return printable(text)
    return f"{printable(text[:longest])}... ({len(text):,} characters)"


def received(value: object) -> str:
    """Formats a wrong value for an error message: its `repr`, on one line and shortened."""
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{value[:_LONGEST]!r}... ({len(value):,} characters)"
    return shortened(repr(value))


class EscapedStream:
    """A text stream that applies `printable_lines` to everything that is written.

    Args:
      stream: The stream to write to.

    Attributes:
      rich_proxied_file: The underlying stream. rich writes colors and cursor movements to it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.rich_proxied_file = getattr(stream, "rich_proxied_file", stream)
        if isinstance(self.rich_proxied_file, EscapedStream):
            self.rich_proxied_file = self.rich_proxied_file.rich_proxied_file

    def write(self, text: str) -> int:
        """Writes text and returns its number of characters."""
        self._stream.write(printable_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each line, without adding line breaks."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
