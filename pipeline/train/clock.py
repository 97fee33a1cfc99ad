"""How fast steps go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

STRETCH_S = 1.0


class Speed(NamedTuple):
    """How fast the steps of a row went.

    Attributes:
      steps_per_second: Over all of their time.
      input_wait_fraction: The part of it that went by waiting for input.
      step_median_s, step_p95_s: Of single steps: half of them, and 95 of 100, took no longer.
    """

    steps_per_second: float = 0.0
    input_wait_fraction: float = 0.0
    step_median_s: float = 0.0
    step_p95_s: float = 0.0


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
        self._step_times_s: list[npt.NDArray[np.float64]] = []

    def add(
        self, steps: int, seconds: float, step_times_s: npt.NDArray[np.float64] | None = None
    ) -> None:
        """Counts a stretch; `step_times_s`, float64 [steps], is what each of its steps took."""
        if self.compiled:
            self._seconds += seconds
            self._steps += steps
            self._step_s = seconds / steps
            if step_times_s is not None:
                self._step_times_s.append(step_times_s)
        self.compiled = True

    def stretch_steps(self) -> int:
        """How many steps to run before the host looks again."""
        if self._step_s is None:
            return 1
        return max(1, int(STRETCH_S / self._step_s))

    def read(self, input_wait_s: float) -> Speed:
        """Of the row's steps, which waited `input_wait_s` for input."""
        if not self._steps:
            return Speed()
        median, p95 = (
            np.quantile(np.concatenate(self._step_times_s), [0.5, 0.95])
            if self._step_times_s
            else (0.0, 0.0)
        )
        return Speed(
            self._steps / self._seconds,
            min(1.0, input_wait_s / self._seconds),
            float(median),
            float(p95),
        )
