"""What follows certain steps: a row of metrics, an evaluation, the end of an epoch, a checkpoint.

The actions after a step are numbered. `RunState.actions` counts those that are complete. If a
process is lost between two of them, the others continue with the next one, so no action is left out
or repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline.training.callbacks import Callbacks, epoch_logs
from pipeline.training.evaluator import Evaluator
from pipeline.training.experiment import Experiment
from pipeline.training.journal import Journal
from pipeline.training.metrics import SUMS, mean_metrics
from pipeline.training.run_state import RunState
from pipeline.training.saver import Saver
from pipeline.training.speed import StepTimer
from pipeline.training.timetable import Timetable

# Numbers of completed actions.
ROW_WRITTEN, EVALUATED = 1, 2


class StepActions:
    """Runs the actions that are due after a step. All processes must call its methods.

    Args:
      experiment: The experiment.
      state: The state of the loop, which the actions change.
      timetable: Tells which actions are due.
      timer: Measures the steps since the last row.
      journal: Takes the rows.
      saver: Takes the checkpoints.
      callbacks: Called at the beginning and the end of an epoch.
      evaluator: Evaluates the validation split.

    Attributes:
      COUNT: Number of actions.
    """

    COUNT = 4

    def __init__(
        self,
        experiment: Experiment,
        state: RunState,
        timetable: Timetable,
        timer: StepTimer,
        journal: Journal,
        saver: Saver,
        callbacks: Callbacks,
        evaluator: Evaluator,
    ) -> None:
        self._experiment = experiment
        self._train = experiment.config.train
        self._state = state
        self._timetable = timetable
        self._timer = timer
        self._journal = journal
        self._saver = saver
        self._callbacks = callbacks
        self._evaluator = evaluator

    @property
    def are_complete(self) -> bool:
        return self._state.actions == self.COUNT

    def complete(self) -> None:
        """Runs the actions of this step that are not complete yet."""
        state = self._state
        if state.actions == 0:
            state.position.evaluation_due = self._timetable.evaluates_at(state.step)
        every: tuple[Callable[[], None], ...] = (
            self._log_training,
            self._validate,
            self._end_epoch,
            self._save_if_due,
        )
        for action in every[state.actions :]:
            action()
            state.actions += 1

    def begin_epoch(self) -> None:
        """Calls the callbacks at the start of an epoch, and after a resume within one."""
        if self._state.epoch_is_new:
            self._state.epoch_is_new = False
            step, timetable = self._state.step, self._timetable
            ending = None if self.are_complete else timetable.epoch_ending_at(step)
            self._callbacks.epoch_begin(timetable.epoch_of(step) if ending is None else ending)

    def save_checkpoint(self, again: bool = False) -> bool:
        """Saves the step. If its weights are not finite, a rollback follows instead."""
        state = self._state
        state.weights_are_bad = not self._saver.save(state.step, state.position, again)
        return not state.weights_are_bad

    def _log_training(self) -> None:
        if not self._timetable.logs_at(self._state.step):
            return
        self._journal.report_skipped()
        runtime, position = self._experiment.runtime, self._state.position
        sums = self._experiment.reduce_sums(np.asarray(position.sums))
        waits_s = runtime.all_reduce(self._timer.waits_s, "sum") / runtime.world_size
        speed = self._timer.read(waits_s)
        self._journal.trained(self._state.step, sums, speed, self._saver.take_blocked_s())
        position.row_written()
        self._timer.reset()

    def _validate(self) -> None:
        position, step = self._state.position, self._state.step
        self.begin_epoch()
        if position.evaluation_due and "validation" in self._experiment.source.splits:
            row = self._evaluator.evaluate("validation")
            # The other metric breaks ties, which are frequent with small validation sets.
            value = [row["accuracy"], -row["loss"]]
            if self._train.best_by == "loss":
                value.reverse()
            # The best step is saved, and a checkpoint saved during bad steps would be the target of
            # their rollback.
            at_end = step == self._experiment.total_steps
            in_bad_steps = bool(position.bad_steps) and not at_end
            may_be_best = not in_bad_steps and self._saver.is_finite()
            best = may_be_best and position.evaluated(step, value)
            self._journal.evaluated(step, "validation", row, best)
            position.epoch_validation = row
        position.evaluation_due = False

    def _end_epoch(self) -> None:
        step, position = self._state.step, self._state.position
        if (epoch := self._timetable.epoch_ending_at(step)) is None:
            return
        if self._callbacks.exist:
            named = self._experiment.reduce_sums(np.asarray(position.epoch_sums))
            training = mean_metrics(named[: len(SUMS)])
            rate = float(self._experiment.schedule(tf.constant(step - 1)))
            logs = epoch_logs(training, position.epoch_validation, rate)
            self._callbacks.epoch_end(epoch, logs)
        position.epoch_ended()
        self._state.epoch_is_new = True

    def _save_if_due(self) -> None:
        step, position = self._state.step, self._state.position
        # A checkpoint saved during bad steps would be the target of their rollback.
        due = self._timetable.saves_at(step) and not position.bad_steps
        at_end = step == self._experiment.total_steps
        if due or at_end or position.best_step == step:
            # Again, if a stop request has interrupted the evaluation of this step.
            self.save_checkpoint(again=True)
            if self._experiment.runtime.is_elastic and (at_end or position.best_step == step):
                # A chief that is lost must not take the best weights of the run with it.
                self._saver.finish()
