"""Standard output and error that may fail: a full disk, a reader that left, a terminal that closed.

`Output` takes the place of the lowest layer of `sys.stdout` and `sys.stderr`, so that whatever
prints (print, rich, logging, warnings) needs no care of its own.
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

# As a shell reports a program that a closed pipe has ended.
_READER_LEFT = 128 + signal.SIGPIPE


class Output(io.FileIO):
    """A standard stream. What cannot be written is dropped; later writes are tried again.

    Where one succeeds again, a line says that output is missing before it.

    Args:
      descriptor: 1 or 2.
      ends: Whether the first failure ends the command, with `SystemExit`, which unlike `OSError` no
        caller takes for an error of its own.
      report: Is told of the first failure, except of a closed pipe that ends the command.

    Attributes:
      lost: The exit code of a command whose result this was: 141 after a closed pipe, 1 after
        another failure, and 0 where nothing was lost.
    """

    def __init__(self, descriptor: int, ends: bool, report: Callable[[str], None]) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._ends = ends
        self._report = report
        self._is_missing = False
        self.lost = 0

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes all of `data`, or drops the rest of it; returns its size in bytes."""
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
            if written is None:  # another program has made the terminal non-blocking
                select.select([], [self], [])
            else:
                rest = rest[written:]

    def _fail(self, error: OSError) -> None:
        if self.lost:
            return
        self.lost = _READER_LEFT if error.errno == errno.EPIPE else 1
        text = f"cannot write to standard output: {error.strerror}"
        if not self._ends:
            self._report(f"{text}. The command goes on, and what it prints there is lost")
            return
        if self.lost != _READER_LEFT:  # a reader such as `head` ends on purpose
            self._report(text)
        raise SystemExit(self.lost)


def take_over_output(ends: bool) -> Output:
    """Replaces `sys.stdout` and `sys.stderr`; returns what is below standard output.

    A name of a file or folder that is not UTF-8 is shown escaped, and so is what would be a command
    to a terminal, whoever prints it.

    Args:
      ends: Whether the command ends where standard output cannot be written.
    """
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    below = Output(1, ends, lambda text: print(f"vit: {text}", file=sys.stderr, flush=True))
    # EscapedStream has all of a TextIO's methods, by delegation.
    sys.stdout = cast(TextIO, EscapedStream(_text(sys.stdout, below)))
    sys.stderr = cast(TextIO, EscapedStream(_text(sys.stderr, Output(2, False, lambda text: None))))
    return below


def _open_if_closed(descriptor: int) -> None:
    """Without it, the next file that is opened would get the number, and what is printed."""
    try:
        os.fstat(descriptor)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def _text(before: object, below: Output) -> io.TextIOWrapper:
    """A text stream over `below` that buffers like `before`, which is None where it was closed."""
    if isinstance(before, io.TextIOWrapper):
        encoding, by_line, at_once = before.encoding, before.line_buffering, before.write_through
    else:
        encoding, by_line, at_once = "utf-8", False, False
    return io.TextIOWrapper(
        # As Python itself does it, with -u nothing is between.
        below if at_once else io.BufferedWriter(below),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=by_line,
        write_through=at_once,
    )
