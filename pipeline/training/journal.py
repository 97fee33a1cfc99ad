"""Reports the progress of a run: rows of metrics, TensorBoard, terminal, unreadable images."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.monitor.progress import ProgressDisplay
from pipeline.monitor.tensorboard import TensorBoardWriter
from pipeline.runs.folder import RunFolder, RunFolderError
from pipeline.runs.metrics_file import MetricsFile, shows_top_5
from pipeline.storage.write import append_to_file
from pipeline.training.experiment import Experiment
from pipeline.training.metrics import SUMS, mean_metrics
from pipeline.training.speed import Speed
from pipeline.training.step import TRAIN_SUMS
from pipeline.training.step_statistics import StepStatistics
from pipeline.training.tensorboard_content import (
    comparable_settings,
    final_pictures,
    initial_pictures,
    start_texts,
)


class Journal:
    """Writes rows of metrics to metrics.jsonl, TensorBoard and the display. Only the chief writes.

    Attributes:
      last_row: The newest row of any split, on every process; empty if there is none. After
        `rewind`, the caller must set it on every process.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder, display: ProgressDisplay) -> None:
        self._experiment = experiment
        self._runtime = experiment.runtime
        self._folder = folder
        self._display = display
        self._metrics = MetricsFile(folder.metrics, display.message)
        self._statistics = StepStatistics(experiment)
        self._board: TensorBoardWriter | None = None
        self._own_skipped: set[str] = set()
        self._no_curve = {"step", "split", "examples"}
        if not shows_top_5(len(experiment.source.classes)):
            self._no_curve.add("top_5_accuracy")
        self._own_repaired: set[str] = set()
        self._repaired: dict[str, str] = {}  # of all processes, with libjpeg's warnings
        self._skipped: dict[str, None] = {}  # of all processes, in the order they were reported
        self._pool = ThreadPoolExecutor(1, "pictures")
        self._drawing: Future[list[tuple[str, bytes]]] | None = None
        self.last_row: dict[str, Any] = {}

    def rewind(self, step: int, again: Container[str] = ()) -> dict[str, Any]:
        """Resets metrics.jsonl and TensorBoard to their state at `step`. Chief only.

        Args:
          step: The step from which the run resumes.
          again: Splits whose rows of that step the run writes again.

        Returns:
          The newest row that is kept, which is the result of a finished run; empty if there is
          none.

        Raises:
          RunFolderError: The files cannot be written.
        """
        try:
            kept = self._metrics.rewind(step, again)
            self._board = TensorBoardWriter(self._folder.tensorboard, step, self._display.message)
            self._skipped = dict.fromkeys(self._folder.skipped_images())
            self._repaired = self._folder.repaired_images()
        except OSError as error:
            raise RunFolderError(
                f"cannot write in {self._folder.path}: {error.strerror}. Free some space or allow "
                "writing, then run the same command again"
            ) from None
        return kept[-1] if kept else {}

    def take_over(self, step: int, again: Container[str]) -> None:
        """Continues the files of an earlier chief, which may have been lost while it wrote.

        The caller has set `last_row`. The earlier chief may not have written it.

        Args:
          step: The step from which the run continues.
          again: Splits whose rows of that step the run writes again.
        """
        last, skipped, repaired = self.last_row, self._skipped, self._repaired
        self.rewind(step, again)
        places = {(row["step"], row["split"]) for row in self._metrics.rows()}
        if last and (last["step"], last["split"]) not in places:
            values = {name: last[name] for name in last if name not in ("step", "epoch", "split")}
            if last["split"] == "train":
                values |= self._statistics.read(last["examples_per_second"])
            self._write(last["step"], last["split"], values)
        self._report_skipped(set(skipped))
        self._report_repaired(repaired)

    def begin(self, step: int) -> None:
        """Writes the settings and the facts of this start to TensorBoard. Chief only."""
        board, config = self._board, self._experiment.config
        if board is None:
            raise ValueError("rewind must be called first")
        starts = self._folder.starts()
        start = starts[-1] if starts else None
        for title, markdown in start_texts(config, start).items():
            board.text(title, markdown, step)
        board.hparams(comparable_settings(self._experiment))
        if self._runtime.is_elastic:
            self._record_workers(step, 0.0, ())

    def regrouped(self, step: int, changes: Sequence[str], seconds: float) -> None:
        """Reports a change of the workers of an elastic job. Chief only.

        Args:
          step: The step from which they continue.
          changes: Who joined, left or was lost, a line for each.
          seconds: How long training has paused on this process.
        """
        workers = self._runtime.world_size
        number = "1 worker continues" if workers == 1 else f"{workers} workers continue"
        text = f"{number} from step {step} after {seconds:.1f} s"
        if self._runtime.is_paused:  # another message says what it waits for
            text = f"{workers} left at step {step}"
        self._display.message("; ".join([*changes, text]))
        if self._board is not None:
            self._board.text("workers", "  \n".join([*changes, text]), step)
        self._record_workers(step, seconds, changes)

    def _record_workers(self, step: int, pause_s: float, changes: Sequence[str]) -> None:
        workers, now_s = self._runtime.world_size, time.time()
        facts = {"time": now_s, "step": step, "workers": workers, "pause_s": pause_s}
        try:
            self._folder.record_workers(facts | {"changes": list(changes)})
        except OSError as error:
            self._display.message(f"{self._folder.workers} cannot be written ({error.strerror})")

    def draw_initial_pictures(self) -> None:
        """Starts drawing pictures of the first batch in a thread. Chief only.

        Call it after the first step. Drawing builds its own graph of the input pipeline. If it runs
        while the graph of training is built, the latter takes twice as long. During the next steps
        it uses some of the cores for a second or two.
        """
        if self._experiment.config.monitor.pictures:
            self._drawing = self._pool.submit(lambda: list(initial_pictures(self._experiment)))

    def end(self, step: int, best_step: int | None) -> None:
        """Displays the results and draws pictures of the learned weights. Chief only."""
        newest = {(row["split"], row["step"]): row for row in self._metrics.rows()}
        shown = (("train", step), ("validation", best_step), ("test", step))
        self._display.finished([newest[key] for key in shown if key in newest])
        if self._board is not None and self._experiment.config.monitor.pictures:
            self._show_drawings(step=0)
            self._drawing = self._pool.submit(lambda: list(final_pictures(self._experiment)))
            self._show_drawings(step)

    def close(self) -> None:
        """Waits for pictures that are being drawn. `take_over` may follow in an elastic job."""
        if self._drawing is not None and self._folder.lock.is_held:
            self._show_drawings(step=0)
        self._pool.shutdown()
        self._pool = ThreadPoolExecutor(1, "pictures")

    def _show_drawings(self, step: int) -> None:
        """Waits for the pictures that are being drawn and writes them to TensorBoard."""
        drawing, self._drawing = self._drawing, None
        if drawing is None or self._board is None:
            return
        try:
            for title, png in drawing.result():
                self._board.picture(title, png, step)
        except Exception as error:  # training must continue without pictures
            self._display.message(f"no pictures in TensorBoard: {error}")

    def flush(self) -> None:
        """Writes all rows and syncs metrics.jsonl to disk.

        Raises:
          OSError: Writing fails.
        """
        self._metrics.flush()

    def trained(self, step: int, sums: np.ndarray, speed: Speed, blocked_s: float) -> None:
        """Writes a row of training metrics.

        Args:
          step: Number of updates.
          sums: Sums of `step.TRAIN_SUMS` over all processes since the last row, float64 [7].
          speed: Speed since the last row, without the call that compiled the graph.
          blocked_s: Time since the last row in which saving a checkpoint blocked training, in
            seconds.
        """
        config, named = self._experiment.config, dict(zip(TRAIN_SUMS, sums, strict=True))
        rate = speed.steps_per_second * config.data.global_batch_size
        updates = named["steps"] - named["skipped_updates"]
        # Deterministic ops do not allow reading the clock.
        timed, reduces = not config.train.deterministic, self._runtime.num_replicas > 1
        values: dict[str, Any] = mean_metrics([named[name] for name in SUMS]) | {
            "learning_rate": float(self._experiment.schedule(tf.constant(step - 1))),
            "weight_decay": config.optim.weight_decay,
            "gradient_norm": named["gradient_norm"] / updates if updates else None,
            "skipped_updates": int(named["skipped_updates"]),
            "skipped_examples": len(self._skipped),
            "examples_per_second": rate,
            "examples_per_second_per_replica": rate / self._runtime.num_replicas,
            "step_median_s": speed.step_median_s if timed else None,
            "step_p95_s": speed.step_p95_s if timed else None,
            "input_wait_fraction": speed.input_wait_fraction if timed else None,
            "all_reduce_wait_s": speed.all_reduce_wait_s if timed and reduces else None,
            "checkpoint_s": blocked_s,
        }
        if (scale := self._experiment.gradient_scale) is not None:
            values["repeated_steps"] = int(scale.repeated_steps.numpy())
        if self._runtime.is_chief:
            values |= self._statistics.read(rate)
        self._display.trained(self._write(step, "train", values))

    def evaluated(self, step: int, split: str, values: dict[str, Any], best: bool) -> None:
        """Writes a row of evaluation metrics."""
        self._display.evaluated(self._write(step, split, values), best)

    def report_skipped(self) -> None:
        """Reports unreadable and repaired images found since the last call, and lists them in the
        run folder. All processes must call it.
        """
        skipped = self._experiment.skipped
        own = [path for path in skipped.paths if path not in self._own_skipped]
        warnings = skipped.repaired
        own_repaired = {name: warnings[name] for name in warnings.keys() - self._own_repaired}
        self._own_skipped.update(own)
        self._own_repaired.update(own_repaired)
        parts = self._runtime.all_gather([own, own_repaired])
        self._report_skipped({path for paths, _ in parts for path in paths})
        self._report_repaired({name: text for _, part in parts for name, text in part.items()})

    def _report_skipped(self, found: set[str]) -> None:
        new = sorted(found - self._skipped.keys())
        self._skipped |= dict.fromkeys(new)
        if new and self._runtime.is_chief:
            where = self._list(self._folder.skipped, new)
            self._display.message(
                f"{len(self._skipped)} unreadable image(s) skipped, the last {new[-1]}; {where}"
            )

    def _report_repaired(self, found: dict[str, str]) -> None:
        """Reports images that libjpeg repaired, because its own warnings name no file."""
        new = sorted(found.keys() - self._repaired.keys())
        self._repaired |= {name: found[name] for name in new}
        if new and self._runtime.is_chief:
            where = self._list(self._folder.repaired, [f"{name}\t{found[name]}" for name in new])
            self._display.message(
                f"libjpeg repaired {len(self._repaired)} damaged image(s), which are used; "
                f"the last {new[-1]} ({found[new[-1]]}); {where}"
            )

    @staticmethod
    def _list(file: Path, lines: Sequence[str]) -> str:
        """Appends lines to a list in the run folder; returns a clause that names the list."""
        try:
            text = "".join(f"{line}\n" for line in lines)
            append_to_file(file, text.encode(errors="backslashreplace"))
        except OSError as error:
            return f"{file} cannot be written ({error.strerror})"
        return f"all are listed in {file}"

    def _write(self, step: int, split: str, values: dict[str, Any]) -> dict[str, Any]:
        epoch = round(float(step / self._experiment.steps_per_epoch), 6)
        row = {"step": step, "epoch": epoch, "split": split, **values}
        self.last_row = row
        if self._runtime.is_chief and self._board is not None:
            if self._drawing is not None and self._drawing.done():
                self._show_drawings(step=0)
            self._metrics.append(row)
            scalars = {k: v for k, v in row.items() if k not in self._no_curve and v is not None}
            self._board.scalars(split, step, scalars)
        return row
