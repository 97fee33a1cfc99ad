"""Requests to stop: signals, a file in the run folder, and a time budget for this start."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress

from pipeline.errors import Stopped
from pipeline.runtimes.stop_signals import stop_signals

_INTERRUPTED = 130


class StopRequest:
    """Whether this process was asked to stop, and by what.

    The request is looked at between stretches of steps. Signals are received by a thread, since
    Python itself would wait until TensorFlow returns, which compiles for minutes: a second SIGINT,
    and the end of the grace, end the process from there at once.

    Args:
      max_time_s: Seconds from now after which to stop; None for no limit.
      grace_s: Seconds from a signal to the end of the process, with or without a new checkpoint.
      answers: Whether the first signal is answered on standard error at once: a step may take
        minutes, and nothing else shows until then that the request was heard.
    """

    def __init__(
        self, max_time_s: float | None = None, grace_s: float = 60.0, answers: bool = False
    ) -> None:
        self._deadline_s = None if max_time_s is None else time.monotonic() + max_time_s
        self._max_time_s = max_time_s
        self._grace_s = grace_s
        self._answers = answers
        self._signal: signal.Signals | None = None
        self.file_is_there: Callable[[], bool] = lambda: False

    @property
    def reason(self) -> str | None:
        """What asked, in words; None while nothing did."""
        if self._signal is not None:
            return self._signal.name
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            return f"train.max_time_s={self._max_time_s:g}"
        return "the file `stop`" if self.file_is_there() else None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals inside, and gives them back to who had them before."""
        read, write = socket.socketpair()
        write.setblocking(False)
        # What the handler would do comes through the socket, to a thread that never waits long.
        before = {number: signal.signal(number, lambda *_: None) for number in stop_signals()}
        descriptor = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(
            target=self._receive, args=(read, set(before)), name="signals", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            write.close()
            thread.join()
            read.close()

    def _receive(self, signals: socket.socket, asking: Container[int]) -> None:
        end_s = math.inf
        while True:
            if end_s < math.inf:
                signals.settimeout(max(end_s - time.monotonic(), 1e-3))
            try:
                numbers = signals.recv(64)
            except TimeoutError:
                _end(Stopped.exit_code, f"{self._grace_s:g} s (checkpoint.grace_s) have passed")
            if not numbers:
                return
            for number in numbers:
                if number == signal.SIGINT and self._signal is signal.SIGINT:
                    _end(_INTERRUPTED, "interrupted twice")
                if number in asking:
                    if self._signal is None and self._answers:
                        self._answer(signal.Signals(number))
                    self._signal = signal.Signals(number)
                    # From the first signal, however many follow.
                    end_s = min(end_s, time.monotonic() + self._grace_s)

    def _answer(self, number: signal.Signals) -> None:
        again = ". Ctrl-C again ends it now" if number == signal.SIGINT else ""
        text = (
            f"\nvit train: {number.name}: stops with a checkpoint when the current step is done, "
            f"within {self._grace_s:g} s (checkpoint.grace_s){again}\n"
        )
        with suppress(OSError):  # nobody reads it
            os.write(2, text.encode())


def _end(code: int, why: str) -> None:
    """Ends the process here and now, with the checkpoints that are there."""
    text = f"\nvit train: {why}: ends now; the newest checkpoint remains\n"
    with suppress(OSError):  # nobody reads it
        os.write(2, text.encode())
    os._exit(code)
