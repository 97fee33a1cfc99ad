"""fit(): resume, stretches of steps, evaluation, checkpoints, stop requests, bad steps.

The host touches the run only between stretches of steps. A stretch ends where something is due
(a row of metrics, an evaluation, a checkpoint, the end), or after about a second, so that a stop
request and the progress bar need not wait longer. Before each, all processes agree on what is next.
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
from pipeline.errors import PipelineError, Stopped, cause
from pipeline.monitor.progress import ProgressDisplay
from pipeline.runs.folder import RunFolder
from pipeline.runtimes.agreement import on_chief
from pipeline.training.bad_steps import describe_bad_step
from pipeline.training.callbacks import Callbacks, epoch_logs, evaluation_logs
from pipeline.training.coordination import NextStretch, StopAgreedError
from pipeline.training.experiment import Experiment
from pipeline.training.journal import Journal
from pipeline.training.memory import memory_of, out_of_memory
from pipeline.training.metrics import SUMS, mean_metrics
from pipeline.training.position import TrainingPosition
from pipeline.training.profiler import Profiler
from pipeline.training.saver import Saver
from pipeline.training.speed import StretchClock
from pipeline.training.starting_weights import start_from
from pipeline.training.step import TRAIN_SUMS
from pipeline.training.stop_request import StopRequest
from pipeline.training.timetable import Timetable


class TrainingFailedError(PipelineError):
    """Loss or gradient were not finite, again and again; all processes raise it together."""

    said_by_chief = True


def fit(
    experiment: Experiment,
    folder: RunFolder,
    display: ProgressDisplay,
    stop: StopRequest,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Trains from the newest checkpoint, or from the start, to the end.

    Args:
      callbacks: Those of the settings, loaded already; None: they are loaded here.

    Returns:
      The last row of metrics: of the test split, or of validation where there is no test split.
      It is empty if the run has no rows and nothing is left to train.

    Raises:
      Stopped: On request; a checkpoint of the step it stopped at has been written.
      TrainingFailedError: Loss or gradient were not finite, `train.max_rollbacks` times over.
      OutOfMemoryError: A step needs more memory than there is.
      CheckpointError: The last checkpoint could not be written.
      DataError: An image could not be read.
    """
    loop = Loop(experiment, folder, display, stop, callbacks)
    try:
        with bad_images_named():
            loop.resume()
            loop.train()
            return loop.finish()
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
    """The state and the verbs of `fit`."""

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
        self._next = NextStretch(experiment, folder, stop, self._callbacks, self._saver)
        self._progress = TrainingPosition()
        self._step, self._epoch_is_new = 0, True
        self._weights_are_bad = False  # They were not finite when the step was to be saved.
        self._went_back_to: int | None = None  # The step of the last rollback,
        self._returns = 0  # and how many times in a row the run went back to it.
        self._clock, self._evaluation_clock = StretchClock(), StretchClock()

    def resume(self) -> None:
        """Goes back to the newest whole checkpoint, and drops what was written after it.

        The chief reads, and the others receive its variables, on a new run as well. A new run is
        saved before its first step: what cannot be saved is known at once, and there is always
        something to go back to.
        """
        self._next.expect("restoring the newest checkpoint")
        self._epoch_is_new = True
        state, self._journal.last_row = on_chief(self._runtime, self._restore_newest)
        self._experiment.broadcast()
        if state is not None:
            self._step = self._saver.saved_step = state["step"]
            whole = TrainingPosition.from_state(state["progress"], self._step)
            self._progress = whole.in_every_process(self._experiment.share_of_sums)
        self._display.advance(self._step)
        if state is None and not self._saver.save(self._step, self._progress):
            raise TrainingFailedError(
                "the weights to start from are not finite. Look at model.pretrained"
            )

    def train(self) -> None:
        """Runs stretches of steps until the end, an early stop, or a request."""
        iterator = self._iterator()
        self._callbacks.train_begin()
        while self._goes_on():
            agreed = self._next.agree(self._clock, f"training from step {self._step}")
            if agreed.save and not self._progress.bad_steps:
                self._save()
            if self._stops_early(agreed.callbacks_stop):
                return
            self._profiler.reach(self._step)
            if self._must_go_back():
                iterator = self._roll_back()
            else:
                self._begin_epoch(self._timetable.epoch_of(self._step))
                self._run_stretch(iterator, agreed.steps)

    def finish(self) -> dict[str, Any]:
        """Evaluates the weights that were best on validation on the test split."""
        self._profiler.close()
        self._next.expect("writing the last checkpoint", slow=True)
        self._saver.finish()
        best = self._progress.best_step
        if best is None or (best != self._step and not self._saver.restore_best(best)):
            best = self._step
        self._experiment.weights_step = best
        if "test" in self._experiment.source.splits:
            row: dict[str, Any] = self._evaluate("test") | {"weights_of_step": best}
            self._journal.evaluated(self._step, "test", row, best=False)
        if self._runtime.is_chief:
            self._journal.end(self._step, best)
        self._callbacks.train_end(evaluation_logs(self._journal.last_row))
        return self._journal.last_row

    def stop(self, reason: str) -> Stopped:
        """Saves, and returns what to raise once the checkpoint is whole."""
        self._next.expect("writing the last checkpoint", slow=True)
        # In the evaluation of the test split the weights are the best ones, and this step is saved.
        if not self._progress.bad_steps:
            self._save()
        self._saver.finish()
        if self._runtime.is_chief:
            with suppress(OSError):  # the next start takes it away as well
                self._folder.clear_stop_request()
        saved = self._saver.saved_step
        where = "and saved"
        if saved != self._step:
            where = f"amid steps that were not finite, and goes on from step {saved}"
        return Stopped(
            f"stopped by {reason} at step {self._step}, {where}. Give the same command to go on"
        )

    def close(self) -> None:
        """Lets go of files and threads; what waits to be saved first, and the watchdog last."""
        with ExitStack() as stack:
            stack.callback(self._next.close)
            stack.callback(self._journal.close)
            stack.callback(self._profiler.close)
            stack.callback(self._saver.close)
            self._next.expect("writing the checkpoint that waits", slow=True)

    def _restore_newest(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """On the chief: restores, and makes the run folder what it was at that step.

        Returns:
          The step and the progress, None for a new run, and the last row of metrics.
        """
        snapshot = self._saver.restore_newest()
        step, again = 0, False
        if snapshot is not None:
            step = snapshot.step
            again = TrainingPosition.from_state(snapshot.state.get("progress"), step).evaluation_due
            self._display.message(f"goes on from {self._saver.store.path(step)}")
        elif self._config.model.pretrained is not None:
            self._display.message(start_from(self._experiment, self._config.model.pretrained))
        last_row = self._journal.rewind(step, evaluates_again=again)
        self._journal.begin(step)
        if snapshot is None:
            return None, last_row
        return {"step": step, "progress": snapshot.state["progress"]}, last_row

    def _iterator(self) -> Iterator[Any]:
        return self._experiment.train_iterator(self._step + self._progress.passed_over_steps)

    def _goes_on(self) -> bool:
        if self._progress.evaluation_due:  # the run, or a start of it, went back to such a step
            self._close_step(again=True)
        # Bad steps at the end are gone back from as well.
        # A data set that has become smaller shortens the run.
        at_end = self._step >= self._experiment.total_steps and not self._must_go_back()
        return not at_end and not self._progress.ended_early

    def _must_go_back(self) -> bool:
        too_many = self._progress.bad_steps >= self._config.train.max_bad_steps
        return too_many or self._weights_are_bad

    def _run_stretch(self, iterator: Iterator[Any], most_steps: int) -> None:
        steps = min(self._timetable.next_after(self._step) - self._step, most_steps)
        start_s = time.monotonic()
        progress = self._progress
        if not self._clock.compiled:
            self._display.show_activity("compiling the training step")
        stretch = self._experiment.train(
            iterator, np.asarray(progress.sums), steps, progress.bad_steps
        )
        if self._step == 0 and self._runtime.is_chief:
            self._journal.draw_beginning()
        if not self._clock.compiled and (why := self._experiment.gradients.why) is not None:
            self._display.message(why)
        self._clock.add(stretch.steps, time.monotonic() - start_s, stretch.seconds)
        progress.trained(stretch.sums, stretch.bad_steps)
        self._step += stretch.steps
        if self._must_go_back():
            return
        self._show_progress()
        if self._timetable.logs_at(self._step):
            self._log_training()
        progress.evaluation_due = self._timetable.evaluates_at(self._step)
        self._close_step()

    def _close_step(self, again: bool = False) -> None:
        """Does what is due at the step that was reached, in an order that a resume can repeat.

        Args:
          again: The step is saved, from before its evaluation.
        """
        epoch = self._timetable.epoch_ending_at(self._step)
        self._begin_epoch(self._timetable.epoch_of(self._step) if epoch is None else epoch)
        if self._progress.evaluation_due and "validation" in self._experiment.source.splits:
            self._validate()
        self._progress.evaluation_due = False
        if epoch is not None:
            self._end_epoch(epoch)
        # What is saved amid bad steps would be what they go back to.
        due = self._timetable.saves_at(self._step) and not self._progress.bad_steps
        at_end = self._step == self._experiment.total_steps
        if due or at_end or self._progress.best_step == self._step:
            self._save(again)

    def _save(self, again: bool = False) -> bool:
        """Saves the step; where its weights are not finite, the run goes back instead."""
        self._weights_are_bad = not self._saver.save(self._step, self._progress, again)
        return not self._weights_are_bad

    def _roll_back(self) -> Iterator[Any]:
        """Goes back to the last checkpoint, past the data of the steps since then.

        Where the first steps after going back are bad as well, on other data, or the run has to go
        back a third time, the weights of that checkpoint are the cause: it is set aside, and the
        run goes back to the one before.
        """
        progress, train = self._progress, self._config.train
        self._next.expect("looking for the examples of a bad step", slow=True)
        end = self._step + progress.passed_over_steps
        first = self._step - progress.bad_steps
        if self._weights_are_bad:
            what = f"the weights of step {self._step} were not finite, and were not saved"
        else:
            why = describe_bad_step(self._experiment, first, end - progress.bad_steps)
            what = f"steps {first + 1} to {self._step} were not finite, {why}"
        if progress.rollbacks >= train.max_rollbacks:
            raise TrainingFailedError(
                f"{what}. The run went back {progress.rollbacks} time(s), which is "
                "train.max_rollbacks. Look at these examples. A lower optim.base_lr, a longer "
                "warm-up or optim.clip_norm needs a new run: set run.dir=FOLDER, and "
                f"model.pretrained={self._folder.path} to start from the weights of this one"
            )
        rollbacks = progress.rollbacks + 1
        self._next.expect("writing the checkpoint that waits", slow=True)
        self._saver.finish()
        suspect = self._went_back_to
        again = self._saver.saved_step == suspect
        hopeless = again and (first == suspect or self._returns > 1)
        aside = self._saver.set_newest_aside() if hopeless else None
        self.resume()
        self._returns = self._returns + 1 if self._step == suspect else 1
        self._went_back_to, self._weights_are_bad = self._step, False
        passed_over = end - self._step
        self._progress.rollbacks, self._progress.passed_over_steps = rollbacks, passed_over
        self._progress.bad_steps = 0
        if aside is not None:
            failed = "every step failed" if first == suspect else "the run failed three times"
            self._display.message(f"step {suspect}, from which {failed}, is set aside as {aside}")
        self._display.message(f"{what}; goes back to step {self._step} and past those data")
        self._clock.reset()
        return self._iterator()

    def _log_training(self) -> None:
        self._journal.report_skipped()
        sums = self._experiment.reduce_sums(np.asarray(self._progress.sums))
        waits_s = self._runtime.all_reduce(self._clock.waits_s, "sum") / self._runtime.world_size
        speed = self._clock.read(waits_s)
        self._journal.trained(self._step, sums, speed, self._saver.take_stood_still_s())
        self._progress.row_written()
        self._clock.reset()

    def _show_progress(self) -> None:
        """Shows this process's part of the metrics since the last row: nothing is reduced."""
        sums = dict(zip(TRAIN_SUMS, self._progress.sums, strict=True))
        if not self._runtime.is_chief or not sums["examples"]:
            return
        rate = self._clock.steps_per_second
        images_per_second = rate and rate * self._config.data.global_batch_size
        values = mean_metrics([sums[name] for name in SUMS])
        self._display.trained(
            {"step": self._step, **values, "examples_per_second": images_per_second}
        )

    def _validate(self) -> None:
        row = self._evaluate("validation")
        # The other measure decides between equals, of which small validation sets have many.
        value = [row["accuracy"], -row["loss"]]
        if self._config.train.best_by == "loss":
            value.reverse()
        # What is the best is saved, and what is saved amid bad steps would be gone back to.
        at_end = self._step == self._experiment.total_steps
        amid_bad_steps = bool(self._progress.bad_steps) and not at_end
        may_be_best = not amid_bad_steps and self._saver.is_finite()
        best = may_be_best and self._progress.evaluated(self._step, value)
        self._journal.evaluated(self._step, "validation", row, best)
        self._progress.epoch_validation = row

    def _evaluate(self, split: str) -> dict[str, Any]:
        clock = self._evaluation_clock
        self._callbacks.test_begin()
        values = self._experiment.evaluate(split, self._stretches(clock, split))
        clock.compiled = True  # a split of one batch is not timed
        self._journal.report_skipped()
        self._callbacks.test_end(evaluation_logs(values))
        return values

    def _begin_epoch(self, epoch: int) -> None:
        """Tells callbacks of an epoch once, and after a resume of the one under way."""
        if self._epoch_is_new:
            self._epoch_is_new = False
            self._callbacks.epoch_begin(epoch)

    def _end_epoch(self, epoch: int) -> None:
        if self._callbacks.exist:
            named = self._experiment.reduce_sums(np.asarray(self._progress.epoch_sums))
            training = mean_metrics(named[: len(SUMS)])
            rate = float(self._experiment.schedule(tf.constant(self._step - 1)))
            logs = epoch_logs(training, self._progress.epoch_validation, rate)
            self._callbacks.epoch_end(epoch, logs)
        self._progress.epoch_ended()
        self._epoch_is_new = True

    def _stretches(self, clock: StretchClock, split: str) -> Callable[[], int]:
        """Says how many batches come next, and times them from one call to the next."""
        last: list[tuple[float, int]] = []
        done, total = 0, self._experiment.eval_batches(split)

        def next_stretch() -> int:
            nonlocal done
            if last:
                start_s, steps = last.pop()
                clock.add(steps, time.monotonic() - start_s)
                done = min(total, done + steps)
            elif not clock.compiled:
                self._display.show_activity("compiling the evaluation")
            self._display.evaluating(split, done, total)
            steps = self._next.agree(clock, f"evaluating {split}").steps
            last.append((time.monotonic(), steps))
            return steps

        return next_stretch

    def _stops_early(self, callback_stops: bool) -> bool:
        patience = self._config.train.early_stopping
        worn_out = patience is not None and self._progress.evaluations_since_best >= patience
        if (worn_out or callback_stops) and self._step:
            why = f"no better validation in {patience} evaluations" if worn_out else "a callback"
            self._display.message(f"stops early at step {self._step}: {why}")
            # The checkpoint records that the run has ended. Without one the run goes back.
            self._progress.ended_early = True
            self._progress.ended_early = self._save(again=True)
            return self._progress.ended_early
        return False
