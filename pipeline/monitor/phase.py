"""What a run does before its first step, which may take minutes."""

from __future__ import annotations

import time

from rich.status import Status
from rich.text import Text

from pipeline.monitor.terminal import Terminal

_REFRESHES_PER_SECOND = 4


class PhaseDisplay:
    """Shows one phase at a time: as a live line on a terminal, elsewhere as a line in the log.

    Args:
      enabled: Whether to print; the chief alone does.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._console = Terminal(quiet=not enabled, soft_wrap=True)
        self._status: Status | None = None

    def message(self, text: str) -> None:
        """One line that stays."""
        self._console.print(Text(text))

    def show(self, doing: str) -> None:
        """Shows that `doing` begins; what was shown before it is over."""
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
        """Takes the live line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None
