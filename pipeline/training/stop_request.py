"""Stop requests: signals, a file in the run folder, and a time limit for this start."""

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
    """Stop requests to this process.

    Training checks them between calls of the graph. A thread receives signals, because Python
    handles them only when TensorFlow returns, and a compilation can take minutes. The thread exits
    the process at once after a second SIGINT, or at the end of the grace period.

    Args:
      max_time_s: Time limit from now in seconds; None for no limit.
      grace_s: Time in seconds after a signal until the process exits, with or without a new
        checkpoint.
      acknowledges: Whether to acknowledge the first signal on standard error at once. A step may
        take minutes, and until then nothing else shows that the signal was received.
    """

    def __init__(
        self, max_time_s: float | None = None, grace_s: float = 60.0, acknowledges: bool = False
    ) -> None:
        self._deadline_s = None if max_time_s is None else time.monotonic() + max_time_s
        self._max_time_s = max_time_s
        self._grace_s = grace_s
        self._acknowledges = acknowledges
        self._signal: signal.Signals | None = None
        self.file_exists: Callable[[], bool] = lambda: False

    @property
    def signal_name(self) -> str | None:
        """The name of the signal that was received; None if there was none."""
        return None if self._signal is None else self._signal.name

    @property
    def reason(self) -> str | None:
        """The source of the request, for messages; None if there is no request."""
        return self.signal_name or self.reason_for_all

    @property
    def reason_for_all(self) -> str | None:
        """Like `reason`, but without signals, which in an elastic job concern one process."""
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            return f"train.max_time_s={self._max_time_s:g}"
        return "the file `stop`" if self.file_exists() else None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context in which signals are received. Restores the previous handlers at the end."""
        read, write = socket.socketpair()
        write.setblocking(False)
        # The handlers do nothing. Python writes the signal numbers to the socket for the thread.
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

    def _receive(self, signals: socket.socket, stop_numbers: Container[int]) -> None:
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
                if number in stop_numbers:
                    if self._signal is None and self._acknowledges:
                        self._acknowledge(signal.Signals(number))
                    self._signal = signal.Signals(number)
                    # The grace period starts at the first signal. Later ones do not extend it.
                    end_s = min(end_s, time.monotonic() + self._grace_s)

    def _acknowledge(self, number: signal.Signals) -> None:
        again = ". Press Ctrl-C again to exit now" if number == signal.SIGINT else ""
        text = (
            f"\nvit train: {number.name}: saving a checkpoint and stopping after the current step, "
            f"within {self._grace_s:g} s (checkpoint.grace_s){again}\n"
        )
        with suppress(OSError):  # standard error may be closed
            os.write(2, text.encode())


def _end(code: int, why: str) -> None:
    """Exits the process at once. Existing checkpoints are kept."""
    text = f"\nvit train: {why}: exiting now; the newest checkpoint is kept\n"
    with suppress(OSError):  # standard error may be closed
        os.write(2, text.encode())
    os._exit(code)
