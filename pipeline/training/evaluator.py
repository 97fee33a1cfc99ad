"""Evaluates a split during training, and stays responsive to stop requests meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pipeline.monitor.progress import ProgressDisplay
from pipeline.training.callbacks import Callbacks, evaluation_logs
from pipeline.training.coordination import Coordinator
from pipeline.training.experiment import Experiment
from pipeline.training.journal import Journal
from pipeline.training.speed import StepTimer


class Evaluator:
    """Evaluates splits in calls of about a second, with an agreement of all processes before each.

    Args:
      experiment: The experiment.
      display: Shows the progress.
      journal: Reports unreadable images.
      callbacks: Called before and after each evaluation.
      coordinator: Lets all processes agree on the next call.
    """

    def __init__(
        self,
        experiment: Experiment,
        display: ProgressDisplay,
        journal: Journal,
        callbacks: Callbacks,
        coordinator: Coordinator,
    ) -> None:
        self._experiment = experiment
        self._display = display
        self._journal = journal
        self._callbacks = callbacks
        self._coordinator = coordinator
        self._timer = StepTimer()

    def evaluate(self, split: str) -> dict[str, Any]:
        """Evaluates a split. All processes must call it.

        Returns:
          The result of `Experiment.evaluate`.

        Raises:
          StopAgreedError: A process received a stop request.
        """
        self._callbacks.test_begin()
        values = self._experiment.evaluate(split, self._next_steps(split))
        self._timer.compiled = True  # a split of one batch is not timed
        self._journal.report_skipped()
        self._callbacks.test_end(evaluation_logs(values))
        return values

    def _next_steps(self, split: str) -> Callable[[], int]:
        """Makes a function that returns the number of batches of the next call and times calls."""
        running: list[tuple[float, int]] = []  # start and number of batches of the last call
        done, total = 0, self._experiment.eval_batches(split)

        def next_steps() -> int:
            nonlocal done
            if running:
                start_s, steps = running.pop()
                self._timer.add(steps, time.monotonic() - start_s)
                done = min(total, done + steps)
            elif not self._timer.compiled:
                self._display.show_activity("compiling the evaluation")
            self._display.evaluating(split, done, total)
            steps = self._coordinator.agree(self._timer, f"evaluating {split}").steps
            running.append((time.monotonic(), steps))
            return steps

        return next_steps
