"""Begins or resumes a run: restores the newest checkpoint, and what belongs to it."""

from __future__ import annotations

from typing import Any

from pipeline.monitor.progress import ProgressDisplay
from pipeline.runtimes.agreement import on_chief
from pipeline.training.coordination import Coordinator
from pipeline.training.experiment import Experiment
from pipeline.training.journal import Journal
from pipeline.training.position import TrainingPosition
from pipeline.training.rollback import TrainingFailedError
from pipeline.training.run_state import RunState
from pipeline.training.saver import Saver
from pipeline.training.starting_weights import load_starting_weights
from pipeline.training.step_actions import ROW_WRITTEN, StepActions


class Resuming:
    """Sets variables, state, metrics and TensorBoard to the newest checkpoint.

    Args:
      experiment: The experiment.
      display: Shows messages and progress.
      state: The state of the loop.
      journal: Its rows after the checkpoint are removed.
      saver: Reads the checkpoint.
      coordinator: Its watchdog is told what takes long.
    """

    def __init__(
        self,
        experiment: Experiment,
        display: ProgressDisplay,
        state: RunState,
        journal: Journal,
        saver: Saver,
        coordinator: Coordinator,
    ) -> None:
        self._experiment = experiment
        self._runtime = experiment.runtime
        self._display = display
        self._state = state
        self._journal = journal
        self._saver = saver
        self._coordinator = coordinator

    def resume(self) -> None:
        """Restores the newest undamaged checkpoint, and removes metrics written after it. All
        processes must call it.

        The chief reads the checkpoint and broadcasts its variables, also in a new run. A new run is
        saved before its first step. Problems with saving therefore appear at once, and there is
        always a checkpoint for a rollback.
        """
        self._coordinator.expect("restoring the newest checkpoint")
        state, found = self._state, on_chief(self._runtime, self._restore_newest)
        saved, self._journal.last_row = found
        self._experiment.broadcast()
        if saved is not None:
            state.step = self._saver.saved_step = saved["step"]
            total = TrainingPosition.from_state(saved["progress"], state.step)
            state.position = total.with_sums(self._experiment.share_of_sums)
        state.epoch_is_new, state.actions = True, StepActions.COUNT
        if state.position.evaluation_due:  # a stop request interrupted the step's evaluation
            state.actions = ROW_WRITTEN
        self._display.advance(state.step)
        if saved is None and not self._saver.save(state.step, state.position):
            raise TrainingFailedError("the initial weights are not finite. Check model.pretrained")

    def _restore_newest(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Restores variables, metrics and TensorBoard from the newest checkpoint. Chief only.

        Returns:
          The step and the position, or None for a new run; and the last row of metrics.
        """
        snapshot = self._saver.restore_newest()
        step, again = 0, False
        if snapshot is not None:
            step = snapshot.step
            again = TrainingPosition.from_state(snapshot.state.get("progress"), step).evaluation_due
            self._display.message(f"resuming from {self._saver.store.path(step)}")
        elif self._experiment.config.model.pretrained is not None:
            pretrained = self._experiment.config.model.pretrained
            self._display.message(load_starting_weights(self._experiment, pretrained))
        last_row = self._journal.rewind(step, {"validation"} if again else ())
        self._journal.begin(step)
        if snapshot is None:
            return None, last_row
        return {"step": step, "progress": snapshot.state["progress"]}, last_row
