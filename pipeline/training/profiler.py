"""Records a profile of some steps: when each operation ran, and on which device and thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf


class Profiler:
    """Profiles the steps of `monitor.profile_steps` on this process.

    Args:
      steps: Number of updates after which to start and to stop; None to record nothing.
      folder: The TensorBoard run, whose folder plugins/profile receives the profile.
      report: Called with a message if the profile fails. Training continues without it.
    """

    def __init__(
        self, steps: tuple[int, int] | None, folder: Path, report: Callable[[str], None]
    ) -> None:
        self._steps = steps
        self._folder = folder
        self._report = report
        self._recording = False

    def reach(self, step: int) -> None:
        """Starts or stops profiling if it is due after `step` updates."""
        if self._steps is None:
            return
        if self._recording and step >= self._steps[1]:
            self.close()
        elif not self._recording and step == self._steps[0]:
            self._recording = self._try(tf.profiler.experimental.start, str(self._folder))

    def close(self) -> None:
        """Stops profiling, if it is active, and writes the profile."""
        if self._recording:
            self._recording = False
            self._try(tf.profiler.experimental.stop)

    def _try(self, function: Callable[..., None], *arguments: str) -> bool:
        try:
            function(*arguments)
        except (OSError, tf.errors.OpError) as error:
            self._report(f"cannot profile steps: {error}")
            return False
        return True
