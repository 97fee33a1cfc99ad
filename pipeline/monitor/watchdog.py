"""Ends a process that hangs, and prints its stacks."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress

# The watchdog's thread prints more details, but needs the interpreter. If something blocks the
# interpreter, faulthandler's timer, which does not need it, ends the process this much later.
_LATER_S = 10.0
_TICKS = 20


class Watchdog:
    """Ends this process if it makes no progress for too long.

    A job in which all processes wait for one that is stuck would hold its devices forever. Before
    the process ends, it prints its name, its activity, and the stacks of all threads.

    Args:
      timeout_s: Longest time between two calls of `beat`; None disables the watchdog.
      setting: Name of the setting for the timeout, for the message.
      where: Name of this process, for the message.
    """

    def __init__(self, timeout_s: float | None, setting: str, where: str) -> None:
        self._timeout_s = timeout_s
        self._setting = setting
        self._where = where
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._doing, self._since_s, self._limit_s = "", time.monotonic(), timeout_s or 0.0
        if timeout_s is not None:
            tick_s = min(1.0, timeout_s / _TICKS)
            threading.Thread(
                target=self._watch, args=(tick_s,), name="watchdog", daemon=True
            ).start()

    def beat(self, doing: str, extra_s: float = 0.0) -> None:
        """Records progress. The next activity may take `extra_s` longer than the timeout."""
        if self._timeout_s is None:
            return
        with self._lock:
            self._doing, self._since_s = doing, time.monotonic()
            self._limit_s = self._timeout_s + extra_s
        with suppress(RuntimeError):  # no thread can be started, for example without memory
            faulthandler.dump_traceback_later(self._limit_s + _LATER_S, exit=True, file=2)

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()
        if self._timeout_s is not None:
            faulthandler.cancel_dump_traceback_later()

    def _watch(self, tick_s: float) -> None:
        while not self._closed.wait(tick_s):
            with self._lock:
                doing, limit_s = self._doing, self._limit_s
                overdue = time.monotonic() - self._since_s > limit_s
            if overdue and doing:
                self._end(doing, limit_s)

    def _end(self, doing: str, limit_s: float) -> None:
        text = (
            f"\n{self._where}: no progress: {doing} did not finish within {limit_s:g} s "
            f"({self._setting}={self._timeout_s:g}). Stacks of all threads:\n"
        )
        sys.stderr.flush()
        _write(text)
        faulthandler.dump_traceback(file=2, all_threads=True)
        _write(f"{self._where}: exiting because of the hang; see the stacks above\n")
        os._exit(1)


def _write(text: str) -> None:
    """Writes to standard error and ignores failures, because the process must still end."""
    with suppress(OSError):
        os.write(2, text.encode())
