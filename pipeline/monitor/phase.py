"""Shows the phases of a run before its first step, which may take minutes."""

from __future__ import annotations

import time

from rich.status import Status
from rich.text import Text

from pipeline.monitor.terminal import Terminal

_REFRESHES_PER_SECOND = 4


class PhaseDisplay:
    """Shows one phase at a time: a live line on a terminal, otherwise a line in the log.

    Args:
      enabled: Whether to print. Only the chief does.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._console = Terminal(quiet=not enabled, soft_wrap=True)
        self._status: Status | None = None

    def message(self, text: str) -> None:
        """Prints a permanent line."""
        self._console.print(Text(text))

    def show(self, doing: str) -> None:
        """Shows that a phase begins, and ends the previous one."""
        if self._console.quiet:
            return
        if not self._console.is_terminal:
            self.message(f"{time.strftime('%H:%M:%S')}  {doing}")
        elif self._status is None:
            self._status = self._console.status(
                Text(f"{doing} ..."), refresh_per_second=_REFRESHES_PER_SECOND
            )
            self._status.start()
        else:
            self._status.update(Text(f"{doing} ..."))

    def close(self) -> None:
        """Removes the live line."""
        if self._status is not None:
            self._status.stop()
            self._status = None
