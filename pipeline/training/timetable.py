"""Determines the steps at which metrics, evaluations, checkpoints and epoch ends are due."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from pipeline.config import CheckpointConfig, TrainConfig
from pipeline.optim.steps import epochs_to_steps


class Timetable:
    """What is due at which step. Step n is the state after n updates.

    Args:
      train: Settings for logging and evaluation.
      checkpoint: Settings for checkpoints.
      steps_per_epoch: Updates per epoch, which may be fractional, because batches run across epoch
        boundaries.
      total_steps: Number of updates of the run.
      also: Additional steps at which a call of the graph must end.
    """

    def __init__(
        self,
        train: TrainConfig,
        checkpoint: CheckpointConfig,
        steps_per_epoch: Fraction,
        total_steps: int,
        also: Sequence[int] = (),
    ) -> None:
        def period_of(epochs: float | None) -> list[Fraction]:
            return [] if epochs is None else [epochs_to_steps(epochs, steps_per_epoch)]

        self._total_steps = total_steps
        self._also = also
        self._epoch = steps_per_epoch
        self._log = [Fraction(train.log_every_steps)]
        self._evaluate = (
            period_of(train.evaluate_every_epochs)
            if train.evaluate_every_steps is None
            else [Fraction(train.evaluate_every_steps)]
        )
        self._save = period_of(checkpoint.every_epochs)
        if checkpoint.every_steps is not None:
            self._save.append(Fraction(checkpoint.every_steps))

    def logs_at(self, step: int) -> bool:
        return step == self._total_steps or _ends_at(step, self._log)

    def evaluates_at(self, step: int) -> bool:
        return step == self._total_steps or _ends_at(step, self._evaluate)

    def saves_at(self, step: int) -> bool:
        return step == self._total_steps or _ends_at(step, self._save)

    def epoch_ending_at(self, step: int) -> int | None:
        """The epoch (from 0) whose last example is in the batch of this step; None if none ends."""
        return step // self._epoch - 1 if _ends_at(step, [self._epoch]) else None

    def epoch_of(self, step: int) -> int:
        """The epoch (from 0) of the next example after `step` updates."""
        return step // self._epoch

    def next_after(self, step: int) -> int:
        """The first step after `step` at which something is due."""
        periods = [self._epoch, *self._log, *self._evaluate, *self._save]
        due = (math.ceil((step // period + 1) * period) for period in periods)
        return min(*due, *(also for also in self._also if also > step), self._total_steps)


def _ends_at(step: int, periods: list[Fraction]) -> bool:
    return any(step // period > (step - 1) // period for period in periods)
