"""Saves checkpoints of a running job: copies the state at once, and writes it in the background."""

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
    """Saves and restores the checkpoints of a run.

    All processes must call `save`, `is_finite`, `finish`, `set_newest_aside` and `restore_best`.
    Only the chief calls `restore_newest`.

    Args:
      experiment: The experiment.
      folder: The run folder. Its lock is checked before each write, because a process that has lost
        the lock must not write.
      report: Called with a message about damaged checkpoints and failed writes.
      flush_rows: Syncs the rows of metrics to disk. It is called before each checkpoint is written,
        so that a run that resumes from the checkpoint finds all rows of the earlier steps.

    Attributes:
      store: The checkpoint store.
      saved_step: Step of the newest checkpoint that was saved or queued for writing.
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
        self._folder = folder
        self._flush_rows = flush_rows
        self.store = CheckpointStore(folder.checkpoints, config.keep, config.keep_every_steps)
        self._writer: BackgroundWriter | None = None
        if self._runtime.is_chief:
            self._writer = self._new_writer()
        self.saved_step = -1
        self._blocked_s = 0.0
        self._saved_at_s = time.monotonic()

    def take_over(self) -> int:
        """Writes checkpoints from now on, in place of an earlier chief. Chief only.

        Returns:
          The newest step that the earlier chief has written; -1 if there is none.
        """
        self.close()  # if this is repeated after another loss
        self.store.remove_leftovers()
        self._writer = self._new_writer()
        return max(self.store.steps(), default=-1)

    @property
    def due_by_time(self) -> bool:
        """Whether `checkpoint.every_s` seconds have passed since the last save."""
        every_s = self._experiment.config.checkpoint.every_s
        return every_s is not None and time.monotonic() - self._saved_at_s >= every_s

    def save(self, step: int, position: TrainingPosition, again: bool = False) -> bool:
        """Copies the state of the run to host memory and queues it for writing.

        Args:
          step: Number of updates.
          position: The position of the run.
          again: Whether to save a step that is saved already, because its position has changed.

        Returns:
          Whether the step is saved. It is not if weights, moments or averages are not finite,
          because such a checkpoint is useless for a rollback.
        """
        if step == self.saved_step and not again:
            return True
        start_s = time.monotonic()
        if not self.is_finite():
            return False
        total = position.with_sums(self._experiment.reduce_sums)
        if self._writer is not None:
            state = self._describe(step, asdict(total))
            self._writer.submit(self._experiment.snapshot(step, state), position.best_step)
        self.saved_step = step
        self._saved_at_s = time.monotonic()
        self._blocked_s += self._saved_at_s - start_s
        return True

    def is_finite(self) -> bool:
        """Whether weights, moments and averages of the chief are finite."""
        return bool(on_chief(self._runtime, self._experiment.is_finite))

    def finish(self) -> None:
        """Waits until all saved checkpoints are on disk.

        Raises:
          PipelineError: On all processes: a checkpoint cannot be written.
        """
        on_chief(self._runtime, self._finish)

    def take_blocked_s(self) -> float:
        """Returns and resets the time in seconds that `save` has blocked training."""
        seconds, self._blocked_s = self._blocked_s, 0.0
        return seconds

    def restore_newest(self) -> Snapshot | None:
        """Restores the chief's variables from the newest undamaged checkpoint. Chief only."""
        self.store.remove_leftovers()
        snapshot = self.store.newest(self._report, set_damaged_aside=True)
        if snapshot is not None:
            self._experiment.restore(snapshot)
        return snapshot

    def set_newest_aside(self) -> str | None:
        """Renames the newest checkpoint, so that the run resumes from the one before.

        Returns:
          Its new path; None if it is the only checkpoint, which is not renamed.
        """

        def rename() -> str | None:
            steps = self.store.steps()
            return str(self.store.set_aside(steps[-1])) if len(steps) > 1 else None

        path: str | None = on_chief(self._runtime, rename)
        return path

    def restore_best(self, step: int) -> bool:
        """Restores the variables of all processes from the best checkpoint.

        Returns:
          Whether it was restored. If it is damaged, a message is reported and the variables are not
          changed.
        """
        restored = bool(on_chief(self._runtime, lambda: self._restore(step)))
        if restored:
            self._experiment.broadcast()
        return restored

    def close(self) -> None:
        """Writes the queued checkpoints and ends the background thread."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _new_writer(self) -> BackgroundWriter:
        def before_save() -> None:
            self._folder.lock.check()
            self._flush_rows()

        return BackgroundWriter(self.store, self._report, before_save)

    def _restore(self, step: int) -> bool:
        try:
            self._experiment.restore(self.store.load(step))
        except CheckpointError as error:
            self._report(f"{error}; using the newest weights instead of the best")
            return False
        return True

    def _finish(self) -> None:
        if self._writer is not None:
            # Half of it, so that an error is reported before the process ends.
            self._writer.finish(self._experiment.config.checkpoint.grace_s / 2)

    def _describe(self, step: int, progress: dict[str, Any]) -> dict[str, Any]:
        config = self._experiment.config
        position = (step + progress["passed_over_steps"]) * config.data.global_batch_size
        examples = self._experiment.source.splits["train"].num_examples
        return {
            "progress": progress,
            "epoch": float(step / self._experiment.steps_per_epoch),
            "next_example": {"epoch": position // examples, "place": position % examples},
            # There is no state of random generators. Order and augmentation depend on the seed and
            # the next example, dropout on the seed and the step.
            "seed": config.seed,
            "world_size": self._runtime.world_size,
            "runtime": self._runtime.name,
            "settings": config.model_dump(mode="json"),
            "versions": versions(),
        }
