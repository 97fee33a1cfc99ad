"""Rollback: returns a run to an earlier checkpoint after steps that were not finite."""

from __future__ import annotations

from pipeline.errors import PipelineError
from pipeline.monitor.progress import ProgressDisplay
from pipeline.runs.folder import RunFolder
from pipeline.training.bad_steps import describe_bad_step
from pipeline.training.coordination import Coordinator
from pipeline.training.experiment import Experiment
from pipeline.training.position import TrainingPosition
from pipeline.training.run_state import RunState
from pipeline.training.saver import Saver


class TrainingFailedError(PipelineError):
    """Loss or gradient were repeatedly not finite. All processes raise it together."""

    said_by_chief = True


class Rollback:
    """Prepares the return to the last checkpoint, and counts returns to the same one.

    The checkpoint itself is the cause if the first steps after a rollback are not finite either,
    although they use other data, or if the run returns to it for the third time. It is then set
    aside, and the run returns to the one before.

    Args:
      experiment: The experiment.
      folder: The run folder, for messages.
      display: Shows messages.
      saver: The checkpoints of the run.
      coordinator: Its watchdog is told what takes long.
      state: The state of the loop, which records the last rollback.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        display: ProgressDisplay,
        saver: Saver,
        coordinator: Coordinator,
        state: RunState,
    ) -> None:
        self._experiment = experiment
        self._folder = folder
        self._display = display
        self._saver = saver
        self._coordinator = coordinator
        self._state = state
        self._messages: list[str] = []

    def prepare(self, step: int, position: TrainingPosition, weights_are_bad: bool) -> None:
        """Describes the bad steps, waits for pending saves, and sets a bad checkpoint aside.

        All processes must call it, and then restore the newest checkpoint.

        Args:
          step: The current step.
          position: The current position.
          weights_are_bad: Whether the weights were not finite when they were to be saved.

        Raises:
          TrainingFailedError: There were `train.max_rollbacks` rollbacks already.
        """
        self._coordinator.expect("searching for the examples of a bad step", slow=True)
        first = step - position.bad_steps
        what = self._describe(step, position, weights_are_bad)
        if position.rollbacks >= self._experiment.config.train.max_rollbacks:
            raise TrainingFailedError(
                f"{what}. The run was rolled back {position.rollbacks} time(s), which is "
                "train.max_rollbacks. Check these examples. A lower optim.base_lr, a longer "
                "warm-up or optim.clip_norm needs a new run: set run.dir=FOLDER, and "
                f"model.pretrained={self._folder.path} to start from the weights of this one"
            )
        self._coordinator.expect("writing the pending checkpoint", slow=True)
        self._saver.finish()
        suspect = self._state.rolled_back_to
        repeated = self._saver.saved_step == suspect
        unusable = repeated and (first == suspect or self._state.returns > 1)
        new_path = self._saver.set_newest_aside() if unusable else None
        self._messages = [what]
        if new_path is not None:
            failed = "every step failed" if first == suspect else "the run failed three times"
            self._messages.insert(
                0, f"the checkpoint of step {suspect}, from which {failed}, is kept as {new_path}"
            )

    def complete(self, step: int) -> None:
        """Records and reports a rollback to the checkpoint of `step`."""
        state = self._state
        state.returns = state.returns + 1 if step == state.rolled_back_to else 1
        state.rolled_back_to = step
        *others, what = self._messages
        for message in others:
            self._display.message(message)
        self._display.message(f"{what}; rolling back to step {step} and skipping the data since")

    def _describe(self, step: int, position: TrainingPosition, weights_are_bad: bool) -> str:
        if weights_are_bad:
            return f"the weights of step {step} were not finite and were not saved"
        first = step - position.bad_steps
        why = describe_bad_step(self._experiment, first, first + position.passed_over_steps)
        return f"steps {first + 1} to {step} were not finite, {why}"
