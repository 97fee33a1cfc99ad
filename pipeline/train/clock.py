"""How fast steps go."""

from __future__ import annotations

STRETCH_S = 1.0


class StretchClock:
    """How fast steps go, and how many of them are about a second.

    The first stretch is one step, and is not counted: it holds the compilation of the graph.

    Attributes:
      compiled: Whether that one is over.
    """

    def __init__(self) -> None:
        self.compiled = False
        self._step_s: float | None = None
        self.reset()

    def reset(self) -> None:
        """Begins a new row."""
        self._seconds = 0.0
        self._steps = 0

    def add(self, steps: int, seconds: float) -> None:
        """Counts a stretch."""
        if self.compiled:
            self._seconds += seconds
            self._steps += steps
            self._step_s = seconds / steps
        self.compiled = True

    def stretch_steps(self) -> int:
        """How many steps to run before the host looks again."""
        if self._step_s is None:
            return 1
        return max(1, int(STRETCH_S / self._step_s))

    def read(self, sums: dict[str, float]) -> tuple[float, float]:
        """Steps a second, and the part of the time that went by waiting for input."""
        if not self._steps:
            return 0.0, 0.0
        return self._steps / self._seconds, min(1.0, sums["input_wait_s"] / self._seconds)
