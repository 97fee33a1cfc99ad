"""Measures the speed of steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CALL_S = 1.0  # target duration of one call of a multi-step graph


class Speed(NamedTuple):
    """Speed of the steps in a row of metrics.

    Attributes:
      steps_per_second: Average speed.
      input_wait_fraction: Fraction of the time spent waiting for input.
      all_reduce_wait_s: Average time per step from the end of the process's own gradients to their
        sum over all processes.
      step_median_s, step_p95_s: Median and 95th percentile of the duration of a step.
    """

    steps_per_second: float = 0.0
    input_wait_fraction: float = 0.0
    all_reduce_wait_s: float = 0.0
    step_median_s: float = 0.0
    step_p95_s: float = 0.0


class StepTimer:
    """Measures steps, and determines how many of them take about a second.

    One call of a multi-step graph runs several steps. The first call has one step and is not
    counted, because it includes the compilation of the graph. A call can be unusually fast if its
    batches were read during a pause, such as a compilation or an evaluation. To keep the next call
    from being too long, which would delay progress and stop requests, the estimated duration of a
    step starts at one second and at most halves with each call.

    Attributes:
      compiled: Whether the first call is complete.
    """

    def __init__(self) -> None:
        self.compiled = False
        self._step_s: float | None = None
        self._estimate_s = CALL_S
        self.reset()

    def reset(self) -> None:
        """Resets the measurements after a row of metrics."""
        self._seconds = 0.0
        self._steps = 0
        self._step_times_s = [np.zeros((0, 3))]

    @property
    def waits_s(self) -> npt.NDArray[np.float64]:
        """Total time of waiting for input and for the sum of gradients, float64 [2], in seconds."""
        return np.concatenate(self._step_times_s)[:, 1:].sum(axis=0)

    def add(
        self, steps: int, seconds: float, step_times_s: npt.NDArray[np.float64] | None = None
    ) -> None:
        """Records one call of a multi-step graph.

        Args:
          steps: Number of steps.
          seconds: Duration of the call.
          step_times_s: For each step its duration and the times of waiting for input and for the
            sum of gradients, float64 [steps, 3].
        """
        if self.compiled:
            self._seconds += seconds
            self._steps += steps
            self._step_s = seconds / steps
            self._estimate_s = max(self._step_s, self._estimate_s / 2)
            if step_times_s is not None:
                self._step_times_s.append(step_times_s)
        self.compiled = True

    def steps_per_call(self) -> int:
        """Number of steps for the next call."""
        if self._step_s is None:
            return 1
        return max(1, int(CALL_S / self._estimate_s))

    @property
    def steps_per_second(self) -> float | None:
        """Speed of the last call; None before the first call without a compilation."""
        return None if self._step_s is None else 1 / self._step_s

    def read(self, waits_s: npt.NDArray[np.float64]) -> Speed:
        """Speed since the last `reset`.

        Args:
          waits_s: The property `waits_s` of this process, or its mean over all processes.
        """
        if not self._steps:
            return Speed()
        durations_s = np.concatenate(self._step_times_s)[:, 0]
        median, p95 = np.quantile(durations_s, [0.5, 0.95]) if durations_s.size else (0.0, 0.0)
        input_wait_s, reduce_wait_s = waits_s.tolist()
        return Speed(
            self._steps / self._seconds,
            min(1.0, input_wait_s / self._seconds),
            reduce_wait_s / self._steps,
            float(median),
            float(p95),
        )
