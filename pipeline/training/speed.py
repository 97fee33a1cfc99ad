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
      all_reduce_wait_s: How long a step waited, once its own gradients were there, for their sum.
      step_median_s, step_p95_s: Of single steps: half of them, and 95 of 100, took no longer.
    """

    steps_per_second: float = 0.0
    input_wait_fraction: float = 0.0
    all_reduce_wait_s: float = 0.0
    step_median_s: float = 0.0
    step_p95_s: float = 0.0


class StretchClock:
    """How fast steps go, and how many of them are about a second.

    The first stretch is one step, and is not counted: it holds the compilation of the graph. A
    stretch may be far too fast, since its batches were read during a pause (a compilation, an
    evaluation), and too long a stretch after it delays progress and stop requests. So the estimate
    of a step's time at most halves with each stretch, beginning at a second.

    Attributes:
      compiled: Whether that one is over.
    """

    def __init__(self) -> None:
        self.compiled = False
        self._step_s: float | None = None
        self._estimate_s = STRETCH_S
        self.reset()

    def reset(self) -> None:
        """Begins a new row."""
        self._seconds = 0.0
        self._steps = 0
        self._step_times_s = [np.zeros((0, 3))]

    @property
    def waits_s(self) -> npt.NDArray[np.float64]:
        """How long the row's steps waited for input and for the sum of gradients, float64 [2]."""
        return np.concatenate(self._step_times_s)[:, 1:].sum(axis=0)

    def add(
        self, steps: int, seconds: float, step_times_s: npt.NDArray[np.float64] | None = None
    ) -> None:
        """Counts a stretch.

        Args:
          steps: Of the stretch.
          seconds: All of its time.
          step_times_s: What each step took, and waited for input and for the sum of gradients,
            float64 [steps, 3].
        """
        if self.compiled:
            self._seconds += seconds
            self._steps += steps
            self._step_s = seconds / steps
            self._estimate_s = max(self._step_s, self._estimate_s / 2)
            if step_times_s is not None:
                self._step_times_s.append(step_times_s)
        self.compiled = True

    def stretch_steps(self) -> int:
        """How many steps to run before the host looks again."""
        if self._step_s is None:
            return 1
        return max(1, int(STRETCH_S / self._estimate_s))

    @property
    def steps_per_second(self) -> float | None:
        """Of the last stretch; None until there is one without a compilation."""
        return None if self._step_s is None else 1 / self._step_s

    def read(self, waits_s: npt.NDArray[np.float64]) -> Speed:
        """Of the row's steps, with `waits_s` of this process or the mean of it over all."""
        if not self._steps:
            return Speed()
        took_s = np.concatenate(self._step_times_s)[:, 0]
        median, p95 = np.quantile(took_s, [0.5, 0.95]) if took_s.size else (0.0, 0.0)
        input_wait_s, reduce_wait_s = waits_s.tolist()
        return Speed(
            self._steps / self._seconds,
            min(1.0, input_wait_s / self._seconds),
            reduce_wait_s / self._steps,
            float(median),
            float(p95),
        )
