"""Where a run stands beside its variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from pipeline.runs.checkpoints.store import CheckpointError
from pipeline.training.step import empty_train_sums

_MOST = 1 << 53  # steps
_LARGEST = 1e300  # of the sums and measures


@dataclass
class TrainingPosition:
    """Saved with each checkpoint, and put back with it.

    Attributes:
      sums: Training sums since the last row, so that a resumed run writes the same row.
      epoch_sums: The same since the epoch began, for callbacks.
      epoch_validation: The epoch's last row of validation, if there was one, for callbacks.
      evaluation_due: The step was reached, and its evaluation is not done: it was stopped in it.
      best_step, best_value: The checkpoint that was best on validation, and its measures, the
        deciding one first, larger being better; one that is not finite is None.
      evaluations_since_best: For early stopping.
      ended_early: Training is over before its last step.
      bad_steps: Steps in a row, up to here, whose loss or gradient was not finite.
      rollbacks: How often the run went back because of such steps.
      passed_over_steps: How many steps' worth of data were passed over in doing so.
    """

    sums: list[float] = field(default_factory=lambda: empty_train_sums().tolist())
    epoch_sums: list[float] = field(default_factory=lambda: empty_train_sums().tolist())
    epoch_validation: dict[str, Any] | None = None
    evaluation_due: bool = False
    best_step: int | None = None
    best_value: list[float | None] | None = None
    evaluations_since_best: int = 0
    ended_early: bool = False
    bad_steps: int = 0
    rollbacks: int = 0
    passed_over_steps: int = 0

    @classmethod
    def from_state(cls, found: Any, step: int) -> TrainingPosition:
        """What a checkpoint of `step` holds, which may be another person's.

        Raises:
          CheckpointError: It is not what a run saves.
        """
        known = {one.name for one in fields(cls)}
        try:
            progress = cls(**{name: found[name] for name in known & set(found)})
            wrong = progress._wrong(step) or next(iter(set(found) - known), None)
        except (TypeError, ValueError, KeyError, OverflowError):
            wrong = "progress"
        if wrong is not None:
            raise CheckpointError(
                f"the checkpoint of step {step} is damaged: state.json: {wrong!r} is not what a "
                "run saves. Take it away, and give the command again"
            )
        return progress

    def _wrong(self, step: int) -> str | None:
        """The name of a value that cannot be; None where all can."""
        length = len(empty_train_sums())
        for name in ("sums", "epoch_sums"):
            sums = getattr(self, name)
            if not (isinstance(sums, list) and len(sums) == length and all(map(_is_number, sums))):
                return name
        for name in ("evaluation_due", "ended_early"):
            if type(getattr(self, name)) is not bool:
                return name
        for name in ("evaluations_since_best", "bad_steps", "rollbacks", "passed_over_steps"):
            if type(getattr(self, name)) is not int or not 0 <= getattr(self, name) < _MOST:
                return name
        if not (self.epoch_validation is None or isinstance(self.epoch_validation, dict)):
            return "epoch_validation"
        best, value = self.best_step, self.best_value
        if best is not None and not (type(best) is int and 0 <= best <= step):
            return "best_step"
        if value is not None and not (isinstance(value, list) and all(map(_is_number, value))):
            return "best_value"
        return None

    def trained(self, sums: np.ndarray, bad_steps: int) -> None:
        """Takes note of a stretch of steps: the sums with those before it, float64 [7]."""
        grown = np.asarray(self.epoch_sums) + sums - np.asarray(self.sums)
        self.sums, self.epoch_sums, self.bad_steps = sums.tolist(), grown.tolist(), bad_steps

    def row_written(self) -> None:
        """Begins a new row of training."""
        self.sums = empty_train_sums().tolist()

    def epoch_ended(self) -> None:
        """Begins a new epoch."""
        self.epoch_sums, self.epoch_validation = empty_train_sums().tolist(), None

    def in_every_process(self, of_one: Callable[[np.ndarray], np.ndarray]) -> TrainingPosition:
        """A copy with other sums: all processes' for a checkpoint, or this process's share.

        Args:
          of_one: From sums float64 [7, 2] to others; called once.
        """
        sums, epoch_sums = of_one(np.stack([self.sums, self.epoch_sums], axis=1)).T.tolist()
        return replace(self, sums=sums, epoch_sums=epoch_sums)

    def evaluated(self, step: int, value: Sequence[float | None]) -> bool:
        """Takes note of an evaluation; whether it is the best so far.

        Where the deciding measure is not known or not finite, it is not.
        """
        measures = [n if n is not None and np.isfinite(n) else None for n in value]
        best = measures[0] is not None and (
            self.best_value is None or _order(measures) > _order(self.best_value)
        )
        if best:
            self.best_step, self.best_value = step, measures
        self.evaluations_since_best = 0 if best else self.evaluations_since_best + 1
        self.evaluation_due = False
        return best


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and abs(value) < _LARGEST)


def _order(measures: Sequence[float | None]) -> list[float]:
    return [-np.inf if number is None else number for number in measures]
