"""Ends a job that hangs, and says where."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress

# The watchdog's own thread says more, but needs the interpreter; should something hold that, the
# interpreter's own timer, which does not, ends the process a little later.
_LATER_S = 10.0
_TICKS = 20


class Watchdog:
    """Ends this process when nothing was done for too long.

    A job of many processes that waits for one that is stuck would hold all its devices for ever.
    What it prints is the name of this process, what it was doing, and every thread's stack.

    Args:
      timeout_s: Longest time between two calls of `beat`; None: it never ends anything.
      setting: What the user changes to allow more, for the message.
      where: This process, for the message.
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
        """Something was done; next comes `doing`, which may take `extra_s` longer than usual."""
        if self._timeout_s is None:
            return
        with self._lock:
            self._doing, self._since_s = doing, time.monotonic()
            self._limit_s = self._timeout_s + extra_s
        with suppress(RuntimeError):  # of no thread: where memory is full, that is what to say
            faulthandler.dump_traceback_later(self._limit_s + _LATER_S, exit=True, file=2)

    def close(self) -> None:
        """Watches no more."""
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
            f"\n{self._where}: hangs: nothing came of {doing} within {limit_s:g} s "
            f"({self._setting}={self._timeout_s:g}). Where each thread stands:\n"
        )
        sys.stderr.flush()
        _write(text)
        faulthandler.dump_traceback(file=2, all_threads=True)
        _write(f"{self._where}: ends because it hangs, see the stacks above\n")
        os._exit(1)


def _write(text: str) -> None:
    """To standard error; where that fails, the process must still end."""
    with suppress(OSError):
        os.write(2, text.encode())
