"""Lets all processes agree on what to do next, before each call of a multi-step graph."""

from __future__ import annotations

from socket import gethostname
from typing import NamedTuple

from pipeline.errors import PipelineError
from pipeline.monitor.watchdog import Watchdog
from pipeline.runs.folder import RunFolder
from pipeline.training.callbacks import Callbacks
from pipeline.training.experiment import Experiment
from pipeline.training.saver import Saver
from pipeline.training.speed import StepTimer
from pipeline.training.stop_request import StopRequest


class Proposal(NamedTuple):
    """What one process proposes. The chief's values are used, except that any process may stop.

    Attributes:
      steps: Number of steps or batches before the next agreement.
      stop: Reason to stop; None to continue.
      leave: Signal that asks this process of an elastic job to leave; None to stay.
      callbacks_stop: Whether a callback has asked to end training.
      save: Whether a checkpoint is due by time.
      change: Whether the processes of an elastic job change.
      error: Why the run cannot continue; None if it can.
    """

    steps: int
    stop: str | None
    leave: str | None
    callbacks_stop: bool
    save: bool
    change: bool
    error: str | None


class StopAgreedError(Exception):
    """A process received a stop request, so all processes stop at this step."""


class GroupChangeError(Exception):
    """Processes of an elastic job want to join or leave, so all processes regroup at this step.

    Attributes:
      leave: Signal on which this process leaves, as all others know; None if it stays.
    """

    def __init__(self, leave: str | None = None) -> None:
        super().__init__(leave)
        self.leave = leave


class Coordinator:
    """Lets all processes agree on the next steps. A watchdog ends a process that hangs.

    Args:
      experiment: The experiment.
      folder: The run folder, whose lock and stop file the chief checks.
      stop: Stop requests to this process.
      callbacks: The user's callbacks, which may ask to end training.
      saver: Tells when a checkpoint is due by time.
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
        stop.file_exists = lambda: self._runtime.is_chief and folder.stop_requested
        self._watchdog = Watchdog(
            self._train.hang_timeout_s,
            "train.hang_timeout_s",
            f"vit train: rank {self._runtime.rank} on {gethostname()}",
        )

    def agree(self, timer: StepTimer, doing: str) -> Proposal:
        """Returns what all processes do next. All processes must call it.

        Args:
          timer: Measures the steps of this kind.
          doing: Describes what follows, for the watchdog's message.

        Raises:
          StopAgreedError: A process received a stop request.
          GroupChangeError: The processes of an elastic job change.
          PipelineError: The run folder no longer belongs to this job.
        """
        # The first call compiles the graph, so this process and those that wait for it may take
        # longer.
        self.expect(doing, slow=not timer.compiled)
        own = Proposal(
            timer.steps_per_call(),
            self._stop_reason(),
            self._leave_reason(),
            self._callbacks.stop_training,
            self._saver.due_by_time,
            self._runtime.change_pending,
            self._lock_error(),
        )
        everyone = [Proposal(*one) for one in self._runtime.all_gather(own)]
        if (error := everyone[0].error) is not None:
            raise PipelineError(error)
        if (reason := next((one.stop for one in everyone if one.stop), None)) is not None:
            raise StopAgreedError(reason)
        if all(one.leave for one in everyone):  # nobody would be left
            raise StopAgreedError(everyone[0].leave)
        if any(one.change for one in everyone):
            raise GroupChangeError(own.leave)
        return everyone[0]

    def expect(self, doing: str, slow: bool = False) -> None:
        """Tells the watchdog what follows, and whether it may take as long as a compilation."""
        self._watchdog.beat(doing, self._train.compile_timeout_s if slow else 0.0)

    def close(self) -> None:
        """Stops the watchdog."""
        self._watchdog.close()

    def _stop_reason(self) -> str | None:
        if not self._runtime.is_elastic:
            return self._stop.reason
        return self._runtime.stop_reason or self._stop.reason_for_all

    def _leave_reason(self) -> str | None:
        if not self._runtime.is_elastic or self._stop.signal_name is None:
            return None
        self._runtime.request_to_leave()
        return self._stop.signal_name

    def _lock_error(self) -> str | None:
        if self._runtime.is_chief:
            try:
                self._folder.lock.check()
            except PipelineError as error:
                return str(error)
        return None
