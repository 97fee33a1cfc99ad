"""Tells an exception that every worker hits from one that a lost machine causes."""

from __future__ import annotations

# Exceptions so far apart are not the same fault, even if workers report no steps.
FORGET_AFTER_S = 600.0


class Failures:
    """The exceptions that ended workers since the last completed step.

    A fault of code or data ends one worker after the other at the same step, because the rest
    always continue there. A fault of one machine does not: the rest complete the step.

    Attributes:
      code: Exit code of the last of them; 0 if there is none.
    """

    def __init__(self) -> None:
        self.code = 0
        self._count = self._limit = self._step = 0
        self._last_s = 0.0

    def note_step(self, step: int) -> None:
        """Takes the last completed step of a worker."""
        if step > self._step:
            self._step, self.code, self._count = step, 0, 0

    def add(self, code: int, size: int, now_s: float) -> bool:
        """Counts a worker that ended with an exception.

        Args:
          code: Its exit code.
          size: Number of workers in its group, including it.
          now_s: Time on a monotonic clock.

        Returns:
          Whether as many workers have failed at this step as were in the group at the first time.
        """
        if self._count == 0 or now_s - self._last_s > FORGET_AFTER_S:
            self._count, self._limit = 0, size
        self._count, self.code, self._last_s = self._count + 1, code, now_s
        return self._count >= self._limit
