"""What all processes do next, agreed on before each stretch of steps or of evaluation batches."""

from __future__ import annotations

from socket import gethostname
from typing import NamedTuple

from pipeline.errors import PipelineError
from pipeline.monitor.watchdog import Watchdog
from pipeline.runs.folder import RunFolder
from pipeline.training.callbacks import Callbacks
from pipeline.training.experiment import Experiment
from pipeline.training.saver import Saver
from pipeline.training.speed import StretchClock
from pipeline.training.stop_request import StopRequest


class Wish(NamedTuple):
    """What one process says; of all but `stop` the chief's word counts.

    Attributes:
      steps: How many to do before all look again.
      stop: Why to stop; None to go on.
      callbacks_stop: Whether a callback asked to end training.
      save: Whether a checkpoint is due by time.
      error: Why the run cannot go on.
    """

    steps: int
    stop: str | None
    callbacks_stop: bool
    save: bool
    error: str | None


class StopAgreedError(Exception):
    """One process was asked to stop, and all do, at this step."""


class NextStretch:
    """Asks all processes what is next, and ends one that waits too long for the others.

    Args:
      stop: The requests to this process.
      callbacks: The chief's.
      saver: Knows when a checkpoint is due by time.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        stop: StopRequest,
        callbacks: Callbacks,
        saver: Saver,
    ) -> None:
        self._runtime = experiment.runtime
        self._train = experiment.config.train
        self._folder = folder
        self._stop = stop
        self._callbacks = callbacks
        self._saver = saver
        stop.file_is_there = lambda: self._runtime.is_chief and folder.stop_requested
        self._watchdog = Watchdog(
            self._train.hang_timeout_s,
            "train.hang_timeout_s",
            f"vit train: rank {self._runtime.rank} on {gethostname()}",
        )

    def agree(self, clock: StretchClock, doing: str) -> Wish:
        """What is next for all; every process must call it.

        Args:
          clock: Knows how fast steps of this kind go.
          doing: What follows, in words.

        Raises:
          StopAgreedError: One was asked to stop, so all do.
          PipelineError: The run folder is no longer this job's.
        """
        # Whoever compiles, for the first stretch, may take longer; and so may who waits for it.
        self.expect(doing, slow=not clock.compiled)
        own = Wish(
            clock.stretch_steps(),
            self._stop.reason,
            self._callbacks.stop_training,
            self._saver.due_by_time,
            self._lock_error(),
        )
        everyone = [Wish(*one) for one in self._runtime.all_gather(own)]
        if (error := everyone[0].error) is not None:
            raise PipelineError(error)
        if (reason := next((one.stop for one in everyone if one.stop), None)) is not None:
            raise StopAgreedError(reason)
        return everyone[0]

    def expect(self, doing: str, slow: bool = False) -> None:
        """Tells the watchdog what comes now, and whether it may take as long as a compilation."""
        self._watchdog.beat(doing, self._train.compile_timeout_s if slow else 0.0)

    def close(self) -> None:
        """Watches no more."""
        self._watchdog.close()

    def _lock_error(self) -> str | None:
        if self._runtime.is_chief:
            try:
                self._folder.lock.check()
            except PipelineError as error:
                return str(error)
        return None
