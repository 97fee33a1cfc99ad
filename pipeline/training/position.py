"""The position of a run: its training state apart from variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from pipeline.runs.checkpoints.store import CheckpointError
from pipeline.training.step import empty_train_sums

_MAX_STEPS = 1 << 53
_MAX_VALUE = 1e300  # of sums and metrics


@dataclass
class TrainingPosition:
    """Training state that is saved and restored with each checkpoint.

    Attributes:
      sums: Training sums since the last row of metrics, so that a resumed run writes the same row.
      epoch_sums: Training sums since the start of the epoch, for callbacks.
      epoch_validation: Last row of validation in this epoch, for callbacks; None if there is none.
      evaluation_due: Whether the evaluation of this step is still to be done, because a stop
        request interrupted it.
      best_step: Step of the checkpoint that is best on validation.
      best_value: Its metrics, the deciding one first. Larger is better; None if not finite.
      evaluations_since_best: Number of evaluations since then, for early stopping.
      ended_early: Whether training has ended before its last step.
      bad_steps: Number of consecutive steps, up to this one, with a non-finite loss or gradient.
      rollbacks: Number of rollbacks caused by such steps.
      passed_over_steps: Number of steps whose batches the rollbacks have skipped.
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
        """Parses the position in a checkpoint of `step`, which may come from another user.

        Raises:
          CheckpointError: A value is invalid.
        """
        known = {one.name for one in fields(cls)}
        try:
            progress = cls(**{name: found[name] for name in known & set(found)})
            wrong = progress._find_invalid(step) or next(iter(set(found) - known), None)
        except (TypeError, ValueError, KeyError, OverflowError):
            wrong = "progress"
        if wrong is not None:
            raise CheckpointError(
                f"the checkpoint of step {step} is damaged: state.json: the value of {wrong!r} is "
                "invalid. Move the checkpoint away and run the command again"
            )
        return progress

    def _find_invalid(self, step: int) -> str | None:
        """Name of an invalid value; None if all are valid."""
        length = len(empty_train_sums())
        for name in ("sums", "epoch_sums"):
            sums = getattr(self, name)
            if not (isinstance(sums, list) and len(sums) == length and all(map(_is_number, sums))):
                return name
        for name in ("evaluation_due", "ended_early"):
            if type(getattr(self, name)) is not bool:
                return name
        for name in ("evaluations_since_best", "bad_steps", "rollbacks", "passed_over_steps"):
            if type(getattr(self, name)) is not int or not 0 <= getattr(self, name) < _MAX_STEPS:
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
        """Records training steps.

        Args:
          sums: Training sums since the last row of metrics, float64 [7].
          bad_steps: Number of consecutive non-finite steps at the end.
        """
        grown = np.asarray(self.epoch_sums) + sums - np.asarray(self.sums)
        self.sums, self.epoch_sums, self.bad_steps = sums.tolist(), grown.tolist(), bad_steps

    def row_written(self) -> None:
        """Resets the sums after a row of metrics."""
        self.sums = empty_train_sums().tolist()

    def epoch_ended(self) -> None:
        """Resets the epoch's sums and validation."""
        self.epoch_sums, self.epoch_validation = empty_train_sums().tolist(), None

    def with_sums(self, transform: Callable[[np.ndarray], np.ndarray]) -> TrainingPosition:
        """Returns a copy with transformed sums.

        Args:
          transform: Called once with sums float64 [7, 2]. It returns the sums over all processes
            for a checkpoint, or the share of this process.
        """
        sums, epoch_sums = transform(np.stack([self.sums, self.epoch_sums], axis=1)).T.tolist()
        return replace(self, sums=sums, epoch_sums=epoch_sums)

    def evaluated(self, step: int, value: Sequence[float | None]) -> bool:
        """Records an evaluation and returns whether it is the best so far.

        It is not if the deciding metric is missing or not finite.
        """
        metrics = [n if n is not None and np.isfinite(n) else None for n in value]
        best = metrics[0] is not None and (
            self.best_value is None or _order(metrics) > _order(self.best_value)
        )
        if best:
            self.best_step, self.best_value = step, metrics
        self.evaluations_since_best = 0 if best else self.evaluations_since_best + 1
        self.evaluation_due = False
        return best


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and abs(value) < _MAX_VALUE)


def _order(metrics: Sequence[float | None]) -> list[float]:
    return [-np.inf if number is None else number for number in metrics]
