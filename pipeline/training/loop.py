"""fit(): training steps, stop requests, rollbacks, and changes of the processes.

Training steps run in calls of a graph of several steps. The host acts only between calls. A call
ends when something is due (a row of metrics, an evaluation, a checkpoint, the end of training), or
after about a second, so that stop requests and the progress bar do not wait longer. Before each
call, all processes agree on what to do next. `step_actions` has what follows after certain steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.data.images import bad_images_named
from pipeline.errors import Stopped, cause
from pipeline.monitor.progress import ProgressDisplay
from pipeline.runs.folder import RunFolder
from pipeline.training.callbacks import Callbacks, evaluation_logs
from pipeline.training.coordination import Coordinator, GroupChangeError, StopAgreedError
from pipeline.training.evaluator import Evaluator
from pipeline.training.experiment import Experiment
from pipeline.training.journal import Journal
from pipeline.training.memory import memory_of, out_of_memory
from pipeline.training.metrics import SUMS, mean_metrics
from pipeline.training.profiler import Profiler
from pipeline.training.regrouping import Regrouping
from pipeline.training.resuming import Resuming
from pipeline.training.rollback import Rollback
from pipeline.training.run_state import RunState
from pipeline.training.saver import Saver
from pipeline.training.speed import StepTimer
from pipeline.training.step import TRAIN_SUMS
from pipeline.training.step_actions import StepActions
from pipeline.training.stop_request import StopRequest
from pipeline.training.timetable import Timetable


def fit(
    experiment: Experiment,
    folder: RunFolder,
    display: ProgressDisplay,
    stop: StopRequest,
    callbacks: Callbacks | None = None,
    conclude: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Trains to the end, from the newest checkpoint if there is one. All processes must call it.

    Args:
      experiment: The experiment.
      folder: The opened run folder.
      display: Shows progress and messages.
      stop: Stop requests to this process.
      callbacks: The callbacks of `train.callbacks` if they are loaded already; None to load them.
      conclude: Called with the last row of metrics on all processes, which may communicate. If
        processes of an elastic job are lost meanwhile, it is called again.

    Returns:
      The last row of metrics: of the test split, or of validation if there is no test split.
      Empty if nothing is left to train and the run has no rows.

    Raises:
      Stopped: A stop was requested. The checkpoint is written.
      TrainingFailedError: Loss or gradient were not finite again after `train.max_rollbacks`
        rollbacks.
      OutOfMemoryError: A step needs more memory than the device has.
      CheckpointError: The last checkpoint cannot be written.
      DataError: An image cannot be read.
    """
    loop = Loop(experiment, folder, display, stop, callbacks)
    try:
        with bad_images_named():
            return loop.run(conclude)
    except StopAgreedError as request:
        raise loop.stop(str(request)) from None
    except tf.errors.ResourceExhaustedError as error:
        raise out_of_memory(
            experiment.config,
            lambda config: sum(memory_of(experiment, config).values()),
            experiment.runtime.num_replicas,
            cause(error.message),
        ) from None
    finally:
        loop.close()


class Loop:
    """The training loop of `fit`, which describes the arguments."""

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        display: ProgressDisplay,
        stop: StopRequest,
        callbacks: Callbacks | None = None,
    ) -> None:
        self._experiment = experiment
        self._config = config = experiment.config
        self._runtime = experiment.runtime
        self._folder = folder
        self._display = display
        self._journal = Journal(experiment, folder, display)
        self._saver = Saver(experiment, folder, display.message, self._journal.flush)
        self._callbacks = callbacks or Callbacks(config.train.callbacks, self._runtime)
        self._callbacks.attach(
            experiment.model,
            math.ceil(experiment.total_steps / experiment.steps_per_epoch),
            math.ceil(experiment.steps_per_epoch),
            "validation" in experiment.source.splits,
        )
        profiled = config.monitor.profile_steps if self._runtime.is_chief else None
        self._profiler = Profiler(profiled, folder.tensorboard / "train", display.message)
        self._timetable = Timetable(
            config.train,
            config.checkpoint,
            experiment.steps_per_epoch,
            experiment.total_steps,
            also=config.monitor.profile_steps or (),
        )
        self._coordinator = Coordinator(experiment, folder, stop, self._callbacks, self._saver)
        self._evaluator = Evaluator(
            experiment, display, self._journal, self._callbacks, self._coordinator
        )
        self._state = RunState()
        self._rollback = Rollback(
            experiment, folder, display, self._saver, self._coordinator, self._state
        )
        self._timer = StepTimer()
        self._actions = StepActions(
            experiment,
            self._state,
            self._timetable,
            self._timer,
            self._journal,
            self._saver,
            self._callbacks,
            self._evaluator,
        )
        self._regrouping = Regrouping(
            experiment,
            folder,
            display,
            self._state,
            self._journal,
            self._saver,
            self._callbacks,
            self._coordinator,
        )
        self._resuming = Resuming(
            experiment, display, self._state, self._journal, self._saver, self._coordinator
        )
        self._has_begun = False

    def resume(self) -> None:
        """Begins the run, or resumes it from its newest checkpoint."""
        self._resuming.resume()

    def run(self, conclude: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Trains to the end, calls `conclude`, and returns the last row of metrics.

        In an elastic job, training continues after processes were lost, left or joined.

        Raises:
          StopAgreedError: A process received a stop request.
        """
        if self._runtime.is_joining:
            self._regrouping.prepare()
            self._regrouping.regroup()
        while True:
            try:
                if not self._regrouping.has_state:
                    self.resume()
                    self._regrouping.has_state = True
                self.train()
                row = self.finish()
                conclude(row)
                return row
            except Exception as error:  # raised unless the group changes
                if not self._regrouping.can_continue_after(error):
                    raise
                leave = error.leave if isinstance(error, GroupChangeError) else None
            self._regrouping.regroup(leave)

    def train(self) -> None:
        """Runs training steps until the end or an early stop."""
        state, iterator = self._state, self._iterator()
        if not self._has_begun:
            self._callbacks.train_begin()
            self._has_begun = True
        while self._continues():
            if self._runtime.is_paused:
                self._actions.save_checkpoint()
                self._regrouping.wait_for_more(self._timer)
            if self._runtime.is_elastic:
                self._runtime.report_step(state.step)
            agreed = self._coordinator.agree(self._timer, f"training from step {state.step}")
            if agreed.save and not state.position.bad_steps:
                self._actions.save_checkpoint()
            if self._stops_early(agreed.callbacks_stop):
                return
            self._profiler.reach(state.step)
            if self._needs_rollback():
                iterator = self._roll_back()
            else:
                self._actions.begin_epoch()
                self._run_steps(iterator, agreed.steps)

    def finish(self) -> dict[str, Any]:
        """Evaluates the best weights on the test split and returns the last row of metrics."""
        self._profiler.close()
        self._coordinator.expect("writing the last checkpoint", slow=True)
        self._saver.finish()
        best = self._state.position.best_step
        if best is None or (best != self._state.step and not self._saver.restore_best(best)):
            best = self._state.step
        self._experiment.weights_step = best
        last = self._journal.last_row
        # Its row is there already if a process was lost after the test.
        is_tested = (last.get("split"), last.get("step")) == ("test", self._state.step)
        if "test" in self._experiment.source.splits and not is_tested:
            row: dict[str, Any] = self._evaluator.evaluate("test") | {"weights_of_step": best}
            self._journal.evaluated(self._state.step, "test", row, best=False)
        if self._runtime.is_chief:
            self._journal.end(self._state.step, best)
        self._callbacks.train_end(evaluation_logs(self._journal.last_row))
        return self._journal.last_row

    def stop(self, reason: str) -> Stopped:
        """Saves a checkpoint, waits until it is written, and returns the exception to raise."""
        self._coordinator.expect("writing the last checkpoint", slow=True)
        # During the evaluation of the test split the model has the best weights, but then this
        # step is saved already.
        if not self._state.position.bad_steps:
            self._actions.save_checkpoint()
        self._saver.finish()
        if self._runtime.is_chief:
            with suppress(OSError):  # the next start deletes the file as well
                self._folder.clear_stop_request()
        saved = self._saver.saved_step
        result = "and saved"
        if saved != self._state.step:
            result = f"during steps that were not finite; the last saved step is {saved}"
        return Stopped(
            f"stopped by {reason} at step {self._state.step}, {result}. Run the same command to "
            "resume"
        )

    def close(self) -> None:
        """Closes files and threads: first it writes pending checkpoints, last ends the watchdog."""
        with ExitStack() as stack:
            stack.callback(self._coordinator.close)
            stack.callback(self._journal.close)
            stack.callback(self._profiler.close)
            stack.callback(self._saver.close)
            self._coordinator.expect("writing the pending checkpoint", slow=True)

    def _iterator(self) -> Iterator[Any]:
        passed_over = self._state.position.passed_over_steps
        return self._experiment.train_iterator(self._state.step + passed_over)

    def _continues(self) -> bool:
        if not self._needs_rollback():
            self._actions.complete()
        # Bad steps at the end need a rollback, too.
        # If the data set has become smaller, the step may be past the end.
        at_end = self._step_is_last and not self._needs_rollback()
        return not at_end and not self._state.position.ended_early

    @property
    def _step_is_last(self) -> bool:
        return self._state.step >= self._experiment.total_steps

    def _needs_rollback(self) -> bool:
        too_many = self._state.position.bad_steps >= self._config.train.max_bad_steps
        return too_many or self._state.weights_are_bad

    def _run_steps(self, iterator: Iterator[Any], max_steps: int) -> None:
        state = self._state
        steps = min(self._timetable.next_after(state.step) - state.step, max_steps)
        start_s = time.monotonic()
        position = state.position
        if not self._timer.compiled:
            self._display.show_activity("compiling the training step")
        result = self._experiment.train(
            iterator, np.asarray(position.sums), steps, position.bad_steps
        )
        if state.step == 0 and self._runtime.is_chief:
            self._journal.draw_initial_pictures()
        if not self._timer.compiled and (reason := self._experiment.gradients.reason) is not None:
            self._display.message(reason)
        self._timer.add(result.steps, time.monotonic() - start_s, result.seconds)
        position.trained(result.sums, result.bad_steps)
        state.step += result.steps
        state.actions = 0
        if not self._needs_rollback():
            self._show_progress()

    def _roll_back(self) -> Iterator[Any]:
        """Returns to the last checkpoint, and skips the data of the steps since then."""
        state, before = self._state, self._state.position
        data_step = state.step + before.passed_over_steps
        self._rollback.prepare(state.step, before, state.weights_are_bad)
        self.resume()
        state.position.rollbacks = before.rollbacks + 1
        state.position.passed_over_steps = data_step - state.step
        state.position.bad_steps = 0
        state.weights_are_bad = False
        self._rollback.complete(state.step)
        self._timer.reset()
        return self._iterator()

    def _show_progress(self) -> None:
        """Displays the metrics of this process since the last row, without a reduction."""
        sums = dict(zip(TRAIN_SUMS, self._state.position.sums, strict=True))
        if not self._runtime.is_chief or not sums["examples"]:
            return
        rate = self._timer.steps_per_second
        images_per_second = rate and rate * self._config.data.global_batch_size
        values = mean_metrics([sums[name] for name in SUMS])
        self._display.trained(
            {"step": self._state.step, **values, "examples_per_second": images_per_second}
        )

    def _stops_early(self, callback_stops: bool) -> bool:
        patience = self._config.train.early_stopping
        exhausted = patience is not None and self._state.position.evaluations_since_best >= patience
        if (exhausted or callback_stops) and self._state.step:
            why = f"no improvement in {patience} evaluations" if exhausted else "a callback"
            self._display.message(f"stopping early at step {self._state.step}: {why}")
            # The checkpoint records that the run has ended. If it cannot be saved because weights
            # are not finite, a rollback follows and training continues.
            self._state.position.ended_early = True
            self._state.position.ended_early = self._actions.save_checkpoint(again=True)
            return self._state.position.ended_early
        return False
