"""A trace of some steps: which operation ran when, on which device and thread."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf


class Profiler:
    """Records the steps of `monitor.profile_steps` on this process.

    Args:
      steps: After how many updates to begin, and to end; None: nothing is recorded.
      folder: Where TensorBoard looks for traces: in plugins/profile of a run.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path) -> None:
        self._steps = steps
        self._folder = folder
        self._recording = False

    def reach(self, step: int) -> None:
        """Begins or ends where `step` updates are done and that is the place for it."""
        if self._steps is None:
            return
        if self._recording and step >= self._steps[1]:
            self.close()
        elif not self._recording and step == self._steps[0]:
            tf.profiler.experimental.start(str(self._folder))
            self._recording = True

    def close(self) -> None:
        """Ends and writes what was begun."""
        if self._recording:
            self._recording = False
            tf.profiler.experimental.stop()
