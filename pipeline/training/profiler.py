"""A trace of some steps: which operation ran when, on which device and thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf


class Profiler:
    """Records the steps of `monitor.profile_steps` on this process.

    Args:
      steps: After how many updates to begin, and to end; None: nothing is recorded.
      folder: Where TensorBoard looks for traces: in plugins/profile of a run.
      report: Is told where a trace cannot be made; training goes on without it.
    """

    def __init__(
        self, steps: tuple[int, int] | None, folder: Path, report: Callable[[str], None]
    ) -> None:
        self._steps = steps
        self._folder = folder
        self._report = report
        self._recording = False

    def reach(self, step: int) -> None:
        """Begins or ends where `step` updates are done and that is the place for it."""
        if self._steps is None:
            return
        if self._recording and step >= self._steps[1]:
            self.close()
        elif not self._recording and step == self._steps[0]:
            self._recording = self._try(tf.profiler.experimental.start, str(self._folder))

    def close(self) -> None:
        """Ends and writes what was begun."""
        if self._recording:
            self._recording = False
            self._try(tf.profiler.experimental.stop)

    def _try(self, function: Callable[..., None], *arguments: str) -> bool:
        try:
            function(*arguments)
        except (OSError, tf.errors.OpError) as error:
            self._report(f"no trace of steps: {error}")
            return False
        return True
