"""Standard output and error that may fail: full disk, closed pipe, closed terminal.

`Output` replaces the lowest layer of `sys.stdout` and `sys.stderr`, so that callers (print, rich,
logging, warnings) need not handle these errors.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, cast

from pipeline.printable import EscapedStream

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# The exit code with which a shell reports a program that was ended by a closed pipe.
_CLOSED_PIPE = 128 + signal.SIGPIPE


class Output(io.FileIO):
    """A standard stream that drops what cannot be written, and tries later writes again.

    When a write succeeds again, a line is inserted that says that output is missing.

    Args:
      descriptor: 1 or 2.
      ends: Whether the first failure ends the command. It does so with `SystemExit`, because
        callers may handle an `OSError` as one of their own.
      report: Called with a message on the first failure, unless a closed pipe ends the command.

    Attributes:
      lost: The exit code of a command whose result was written here: 141 after a closed pipe, 1
        after another failure, and 0 if nothing was lost.
    """

    def __init__(self, descriptor: int, ends: bool, report: Callable[[str], None]) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._ends = ends
        self._report = report
        self._is_missing = False
        self.lost = 0

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes `data`, or drops what cannot be written; returns the size of `data` in bytes."""
        content = memoryview(data).cast("B")
        try:
            if self._is_missing:
                self._write_all(b"\n[vit: output is missing here: it could not be written]\n")
                self._is_missing = False
            self._write_all(content)
        except OSError as error:
            self._is_missing = True
            self._fail(error)
        return len(content)

    def _write_all(self, content: bytes | memoryview) -> None:
        rest = memoryview(content)
        while rest:
            written = super().write(rest)
            if written is None:  # Another program has made the terminal non-blocking.
                select.select([], [self], [])
            else:
                rest = rest[written:]

    def _fail(self, error: OSError) -> None:
        if self.lost:
            return
        self.lost = _CLOSED_PIPE if error.errno == errno.EPIPE else 1
        text = f"cannot write to standard output: {error.strerror}"
        if not self._ends:
            self._report(f"{text}. The command continues without this output")
            return
        if self.lost != _CLOSED_PIPE:  # A reader such as `head` exits on purpose.
            self._report(text)
        raise SystemExit(self.lost)


def take_over_output(ends: bool) -> Output:
    """Replaces `sys.stdout` and `sys.stderr`; returns the lowest layer of standard output.

    File names that are not UTF-8, and control sequences for terminals, are printed escaped.

    Args:
      ends: Whether the command ends if standard output cannot be written.
    """
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    below = Output(1, ends, lambda text: print(f"vit: {text}", file=sys.stderr, flush=True))
    # EscapedStream has all methods of a TextIO, by delegation.
    sys.stdout = cast(TextIO, EscapedStream(_text(sys.stdout, below)))
    sys.stderr = cast(TextIO, EscapedStream(_text(sys.stderr, Output(2, False, lambda text: None))))
    return below


def _open_if_closed(descriptor: int) -> None:
    """Opens a closed descriptor: otherwise the next opened file would get its number and output."""
    try:
        os.fstat(descriptor)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def _text(before: object, below: Output) -> io.TextIOWrapper:
    """Returns a text stream over `below` that buffers like `before`, which is None if closed."""
    if isinstance(before, io.TextIOWrapper):
        encoding, by_line, at_once = before.encoding, before.line_buffering, before.write_through
    else:
        encoding, by_line, at_once = "utf-8", False, False
    return io.TextIOWrapper(
        # Like in Python itself, there is no buffer with -u.
        below if at_once else io.BufferedWriter(below),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=by_line,
        write_through=at_once,
    )
