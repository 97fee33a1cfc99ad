"""fit(): resume, stretches of steps, evaluation, checkpoints, stop requests.

The host touches the run only between stretches of steps. A stretch ends where something is due
(a row of metrics, an evaluation, a checkpoint, the end), or after about a second, so that a stop
request and the progress bar need not wait longer.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.checkpoint import CheckpointStore
from pipeline.data.images import bad_image_error
from pipeline.distribute.agreement import on_chief
from pipeline.errors import Stopped
from pipeline.monitor.metrics_file import MetricsFile
from pipeline.monitor.progress import ProgressDisplay
from pipeline.monitor.tensorboard import TensorBoardWriter
from pipeline.train.callbacks import Callbacks
from pipeline.train.clock import StretchClock
from pipeline.train.experiment import Experiment, empty_train_sums
from pipeline.train.metrics import SUMS, mean_metrics
from pipeline.train.run_folder import RunFolder
from pipeline.train.step import TRAIN_SUMS
from pipeline.train.stop import StopRequest


@dataclass
class Progress:
    """Where a run stands beside its variables; saved with each checkpoint.

    Attributes:
      sums: Training sums since the last row, so that a resumed run writes the same row.
      best_step, best_value: The checkpoint that was best on validation, and its measures, the
        deciding one first, larger being better.
      evaluations_since_best: For early stopping.
    """

    sums: list[float] = field(default_factory=lambda: empty_train_sums().tolist())
    best_step: int | None = None
    best_value: list[float] | None = None
    evaluations_since_best: int = 0


def fit(
    experiment: Experiment, folder: RunFolder, display: ProgressDisplay, stop: StopRequest
) -> dict[str, Any]:
    """Trains from the newest checkpoint, or from the start, to the end.

    Returns:
      The last row of metrics: of the test split, or of validation where there is no test split.

    Raises:
      Stopped: On request; a checkpoint of the step it stopped at has been written.
      DataError: An image could not be read.
    """
    loop = Loop(experiment, folder, display, stop)
    try:
        loop.resume()
        loop.train()
        return loop.finish()
    except tf.errors.OpError as error:
        raise bad_image_error(error) or error from None
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
    ) -> None:
        self._experiment = experiment
        self._config = experiment.config
        self._runtime = experiment.runtime
        self._folder = folder
        self._display = display
        self._stop = stop
        self._store = CheckpointStore(folder.checkpoints, self._config.checkpoint.keep)
        self._metrics = MetricsFile(folder.metrics)
        chief = self._runtime.is_chief
        self._callbacks = Callbacks(self._config.train.callbacks if chief else (), experiment.model)
        self._progress = Progress()
        self._board: TensorBoardWriter | None = None
        self._step = 0
        self._saved_step = -1
        self._clock = StretchClock()
        self._last_row: dict[str, Any] = {}
        self._own_skipped: set[str] = set()
        self._skipped_count = 0

    def resume(self) -> None:
        """Goes back to the newest whole checkpoint, and drops what was written after it.

        The chief reads, and the others receive its variables, on a new run as well.
        """
        state = on_chief(self._runtime, self._restore_newest)
        self._experiment.broadcast()
        if state is not None:
            self._step = self._saved_step = state["step"]
            self._progress = Progress(**state["progress"])
            if not self._runtime.is_chief:
                # The sums since the last row are those of all processes, and the chief has them.
                self._progress.sums = empty_train_sums().tolist()
        self._display.advance(self._step)

    def train(self) -> None:
        """Runs stretches of steps until the end, an early stop, or a request."""
        iterator = self._experiment.train_iterator(self._step)
        self._callbacks.train_begin()
        while self._step < self._experiment.total_steps:
            stretch_steps, stop_reason, callback_stops = self._agree()
            if stop_reason:
                self._save()
                raise Stopped(
                    f"stopped by {stop_reason} at step {self._step}, and saved. Give the same "
                    "command to go on"
                )
            if self._stops_early(callback_stops):
                return
            steps = min(self._next_due() - self._step, stretch_steps)
            started_s = time.monotonic()
            sums = self._experiment.train(iterator, np.asarray(self._progress.sums), steps)
            self._clock.add(steps, time.monotonic() - started_s)
            self._progress.sums = sums.tolist()
            self._step += steps
            self._display.advance(self._step)
            self._after_stretch()

    def finish(self) -> dict[str, Any]:
        """Evaluates the weights that were best on validation on the test split."""
        best = self._progress.best_step
        if best is not None and best != self._step:
            on_chief(self._runtime, lambda: self._experiment.restore(self._store.load(best)))
            self._experiment.broadcast()
        if "test" in self._experiment.source.splits:
            self._evaluate("test", best if best is not None else self._step)
        self._callbacks.train_end(self._last_row)
        return self._last_row

    def close(self) -> None:
        """Lets go of files."""
        if self._board is not None:
            self._board.close()

    def _restore_newest(self) -> dict[str, Any] | None:
        """On the chief: restores, and makes the run folder what it was at that step."""
        snapshot = self._store.newest(self._display.message)
        step, best_step = 0, None
        if snapshot is not None:
            self._experiment.restore(snapshot)
            step, best_step = snapshot.step, snapshot.state["progress"]["best_step"]
            self._display.message(f"goes on from {self._store.path(step)}")
        self._metrics.rewind(step)
        self._store.prune(best_step)
        self._board = TensorBoardWriter(self._folder.tensorboard, step)
        return None if snapshot is None else {"step": step, **snapshot.state}

    def _agree(self) -> tuple[int, str | None, bool]:
        """What all processes do next: steps of the coming stretch, why to stop, callbacks' wish."""
        own = (self._clock.stretch_steps(), self._stop.reason, self._callbacks.stop_training)
        everyone = self._runtime.all_gather(own)
        reason = next((reason for _, reason, _ in everyone if reason), None)
        return everyone[0][0], reason, everyone[0][2]

    def _after_stretch(self) -> None:
        """Does what is due at the step that was reached, in an order that a resume can repeat."""
        train = self._config.train
        end = self._experiment.total_steps
        if self._step % train.log_every_steps == 0 or self._step == end:
            self._log_training()
        evaluates = self._step == self._next_evaluation(self._step - 1) or self._step == end
        if evaluates and "validation" in self._experiment.source.splits:
            self._validate()
        epochs = self._epochs_done(self._step)
        if epochs > self._epochs_done(self._step - 1):
            self._callbacks.epoch_end(epochs - 1, self._last_row)
        every = self._config.checkpoint.every_steps
        due = evaluates if every is None else self._step % every == 0
        if due or self._step == end or self._progress.best_step == self._step:
            self._save()

    def _log_training(self) -> None:
        reduced = self._experiment.reduce_sums(np.asarray(self._progress.sums))
        sums = dict(zip(TRAIN_SUMS, reduced, strict=True))
        rate, wait = self._clock.read(sums)
        rate *= self._config.data.global_batch_size
        updates = max(sums["steps"] - sums["skipped_updates"], 1)
        row = self._row("train", mean_metrics([sums[name] for name in SUMS])) | {
            "learning_rate": float(self._experiment.schedule(tf.constant(self._step - 1))),
            "gradient_norm": sums["gradient_norm"] / updates,
            "skipped_updates": int(sums["skipped_updates"]),
            "examples_per_second": rate,
            # Deterministic ops include no clock.
            "input_wait_fraction": None if self._config.train.deterministic else wait,
        }
        self._write(row)
        self._display.trained(row)
        self._report_skipped()
        self._progress.sums = empty_train_sums().tolist()
        self._clock.reset()

    def _validate(self) -> None:
        progress = self._progress
        row = self._row("validation", self._experiment.evaluate("validation"))
        # The other measure decides between equals, of which small validation sets have many.
        value = [row["accuracy"], -row["loss"]]
        if self._config.train.best_by == "loss":
            value.reverse()
        best = progress.best_value is None or value > progress.best_value
        if best:
            progress.best_step, progress.best_value = self._step, value
        progress.evaluations_since_best = 0 if best else progress.evaluations_since_best + 1
        self._write(row)
        self._display.evaluated(row, best)
        self._callbacks.test_end(row)

    def _evaluate(self, split: str, step: int) -> None:
        row = self._row(split, self._experiment.evaluate(split)) | {"weights_of_step": step}
        self._write(row)
        self._display.evaluated(row, best=False)

    def _save(self) -> None:
        if self._step == self._saved_step:
            return
        sums = self._experiment.reduce_sums(np.asarray(self._progress.sums)).tolist()
        progress = asdict(self._progress) | {"sums": sums}
        on_chief(self._runtime, lambda: self._write_checkpoint(progress))
        self._saved_step = self._step

    def _write_checkpoint(self, progress: dict[str, Any]) -> None:
        state = {"progress": progress, "world_size": self._runtime.world_size}
        self._store.save(self._experiment.snapshot(state))
        self._store.prune(self._progress.best_step)

    def _row(self, split: str, values: dict[str, float]) -> dict[str, Any]:
        epoch = self._step / self._experiment.steps_per_epoch
        return {"step": self._step, "epoch": round(epoch, 6), "split": split, **values}

    def _write(self, row: dict[str, Any]) -> None:
        self._last_row = row
        if self._runtime.is_chief and self._board is not None:
            self._metrics.append(row)
            scalars = {k: v for k, v in row.items() if k not in ("step", "split") and v is not None}
            self._board.scalars(row["split"], row["step"], scalars)

    def _report_skipped(self) -> None:
        """Tells of unreadable images met since the last row, and lists them in the run folder."""
        own = [path for path in self._experiment.skipped.paths if path not in self._own_skipped]
        self._own_skipped.update(own)
        new = sorted({path for paths in self._runtime.all_gather(own) for path in paths})
        if new and self._runtime.is_chief:
            self._skipped_count += len(new)
            with self._folder.skipped.open("a") as stream:
                stream.writelines(f"{path}\n" for path in new)
            self._display.message(
                f"{self._skipped_count} unreadable image(s) skipped, the last {new[-1]}; all are "
                f"listed in {self._folder.skipped}"
            )

    def _stops_early(self, callback_stops: bool) -> bool:
        patience = self._config.train.early_stopping
        worn_out = patience is not None and self._progress.evaluations_since_best >= patience
        if (worn_out or callback_stops) and self._step:
            why = f"no better validation in {patience} evaluations" if worn_out else "a callback"
            self._display.message(f"stops early at step {self._step}: {why}")
            self._save()
            return True
        return False

    def _next_due(self) -> int:
        """The next step at which the host has something to do."""
        every = [self._config.train.log_every_steps]
        if self._config.checkpoint.every_steps is not None:
            every.append(self._config.checkpoint.every_steps)
        due = [(self._step // n + 1) * n for n in every]
        per_epoch = self._experiment.steps_per_epoch
        due.append(math.ceil((self._epochs_done(self._step) + 1) * per_epoch))
        return min(*due, self._next_evaluation(self._step), self._experiment.total_steps)

    def _next_evaluation(self, step: int) -> int:
        """The first step after `step` at which validation is due."""
        train = self._config.train
        if train.evaluate_every_steps is not None:
            return (step // train.evaluate_every_steps + 1) * train.evaluate_every_steps
        if train.evaluate_every_epochs is None:
            return self._experiment.total_steps
        period = train.evaluate_every_epochs * self._experiment.steps_per_epoch
        return max(step + 1, math.ceil((_periods_done(step, period) + 1) * period))

    def _epochs_done(self, step: int) -> int:
        return _periods_done(step, self._experiment.steps_per_epoch)


def _periods_done(step: int, period: float) -> int:
    """Whole periods that lie in `step` steps, however the division rounds."""
    done = int(step / period)
    return next(n for n in (done + 1, done, done - 1) if math.ceil(n * period) <= step)
