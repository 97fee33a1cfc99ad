"""The checkpoints of a running job: the state is copied at once, and written while it trains on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pipeline.runs.checkpoints.background import BackgroundWriter
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointError, CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.runtimes.agreement import on_chief
from pipeline.training.description import versions
from pipeline.training.experiment import Experiment
from pipeline.training.position import TrainingPosition


class Saver:
    """Saves and finds the checkpoints of a run.

    All processes must call `save`, `is_finite`, `finish` and `restore_best`, and the chief
    `restore_newest`.

    Args:
      report: Is told of damaged checkpoints and of failures to write.
      flush_rows: Puts the rows of metrics on the disk, before each checkpoint: a run goes on
        behind the rows that its checkpoint's steps have written. Before that the lock is looked
        at: what was taken over is another process's to write.

    Attributes:
      store: Where they are.
      saved_step: The newest one that was handed over.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        report: Callable[[str], None],
        flush_rows: Callable[[], None],
    ) -> None:
        config = experiment.config.checkpoint
        self._experiment = experiment
        self._runtime = experiment.runtime
        self._report = report
        self.store = CheckpointStore(folder.checkpoints, config.keep, config.keep_every_steps)

        def before_save() -> None:
            folder.lock.check()
            flush_rows()

        self._writer = (
            BackgroundWriter(self.store, report, before_save) if self._runtime.is_chief else None
        )
        self.saved_step = -1
        self._stood_still_s = 0.0
        self._saved_at_s = time.monotonic()

    @property
    def due_by_time(self) -> bool:
        """Whether `checkpoint.every_s` have passed since the last save."""
        every_s = self._experiment.config.checkpoint.every_s
        return every_s is not None and time.monotonic() - self._saved_at_s >= every_s

    def save(self, step: int, progress: TrainingPosition, again: bool = False) -> bool:
        """Copies the run to host memory, and hands it to the thread that writes.

        A step that is saved already is saved `again` only where its progress is another one.

        Returns:
          Whether the step is saved: weights, moments and averages that are not finite are of no
          use to go back to.
        """
        if step == self.saved_step and not again:
            return True
        start_s = time.monotonic()
        if not self.is_finite():
            return False
        whole = progress.in_every_process(self._experiment.reduce_sums)
        if self._writer is not None:
            state = self._describe(step, asdict(whole))
            self._writer.submit(self._experiment.snapshot(step, state), progress.best_step)
        self.saved_step = step
        self._saved_at_s = time.monotonic()
        self._stood_still_s += self._saved_at_s - start_s
        return True

    def is_finite(self) -> bool:
        """Whether weights, moments and averages are finite, as the chief has them."""
        return bool(on_chief(self._runtime, self._experiment.is_finite))

    def finish(self) -> None:
        """Returns when all that was saved is on disk.

        Raises:
          PipelineError: On all processes: it could not be written.
        """
        on_chief(self._runtime, self._finish)

    def take_stood_still_s(self) -> float:
        """Seconds that training stood still for saves since the last call."""
        seconds, self._stood_still_s = self._stood_still_s, 0.0
        return seconds

    def restore_newest(self) -> Snapshot | None:
        """On the chief: puts its variables back to the newest whole checkpoint."""
        self.store.remove_leftovers()
        snapshot = self.store.newest(self._report, set_damaged_aside=True)
        if snapshot is not None:
            self._experiment.restore(snapshot)
        return snapshot

    def set_newest_aside(self) -> str | None:
        """Renames the newest checkpoint, so that the run goes back to the one before.

        All processes must call it.

        Returns:
          Its new path; None where it is the only one, and stays.
        """

        def rename() -> str | None:
            steps = self.store.steps()
            return str(self.store.set_aside(steps[-1])) if len(steps) > 1 else None

        path: str | None = on_chief(self._runtime, rename)
        return path

    def restore_best(self, step: int) -> bool:
        """Puts all processes' variables back to the checkpoint that was best.

        Returns:
          Whether it could be read; otherwise it is said, and the variables are left as they are.
        """
        restored = bool(on_chief(self._runtime, lambda: self._restore(step)))
        if restored:
            self._experiment.broadcast()
        return restored

    def close(self) -> None:
        """Ends the thread, after what it has to write."""
        if self._writer is not None:
            self._writer.close()

    def _restore(self, step: int) -> bool:
        try:
            self._experiment.restore(self.store.load(step))
        except CheckpointError as error:
            self._report(f"{error}; the newest weights are taken instead of the best")
            return False
        return True

    def _finish(self) -> None:
        if self._writer is not None:
            # Half, so that what went wrong is said before the grace ends the process.
            self._writer.finish(self._experiment.config.checkpoint.grace_s / 2)

    def _describe(self, step: int, progress: dict[str, Any]) -> dict[str, Any]:
        config = self._experiment.config
        position = (step + progress["passed_over_steps"]) * config.data.global_batch_size
        examples = self._experiment.source.splits["train"].num_examples
        return {
            "progress": progress,
            "epoch": float(step / self._experiment.steps_per_epoch),
            "next_example": {"epoch": position // examples, "place": position % examples},
            # Order and augmentation follow from the seed and the place above, dropout from the seed
            # and the step: no generator has a state of its own.
            "seed": config.seed,
            "world_size": self._runtime.world_size,
            "runtime": self._runtime.name,
            "settings": config.model_dump(mode="json"),
            "versions": versions(),
        }
