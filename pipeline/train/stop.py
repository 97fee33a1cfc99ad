"""Requests to stop: signals, and a time budget for this start."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether this process was asked to stop, and by what.

    The request is looked at between stretches of steps; a second SIGINT does not wait for that.

    Args:
      max_time_s: Seconds from now after which to stop; None for no limit.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, max_time_s: float | None = None) -> None:
        self._deadline_s = None if max_time_s is None else time.monotonic() + max_time_s
        self._max_time_s = max_time_s
        self._signal: signal.Signals | None = None

    @property
    def reason(self) -> str | None:
        """What asked, in words; None while nothing did."""
        if self._signal is not None:
            return self._signal.name
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            return f"train.max_time_s={self._max_time_s:g}"
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals inside, and gives them back to who had them before."""
        before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number)
