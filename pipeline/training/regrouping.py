"""Continues training after processes of an elastic job were lost, left, or joined.

All processes agree on the most advanced state and continue from there. A step is either complete on
a process or has changed nothing (`step`), and so are the actions after a step (`step_actions`). So
no example is skipped or used twice, and no row of metrics is missing or written twice.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

from pipeline.errors import PeerLost, SettingsError, Stopped
from pipeline.monitor.progress import ProgressDisplay
from pipeline.runs.folder import RunFolder
from pipeline.runs.lock import ELASTIC_BEAT_S, ELASTIC_STALE_S
from pipeline.runtimes.agreement import on_chief, settings_and_code
from pipeline.runtimes.runtime import Runtime
from pipeline.strict_json import to_json
from pipeline.training.callbacks import Callbacks
from pipeline.training.coordination import Coordinator, GroupChangeError
from pipeline.training.data_opening import data_facts
from pipeline.training.experiment import Experiment
from pipeline.training.journal import Journal
from pipeline.training.run_state import RunState
from pipeline.training.saver import Saver
from pipeline.training.speed import StepTimer
from pipeline.training.step import empty_train_sums
from pipeline.training.step_actions import EVALUATED, ROW_WRITTEN

_WAIT_S = 0.2


class Regrouping:
    """Forms a new group of processes, with the same state on each.

    Args:
      experiment: The experiment.
      folder: The run folder, whose lock a new chief takes.
      display: Shows messages and progress on the chief.
      state: The state of the loop.
      journal: Continued by a new chief.
      saver: Continued by a new chief.
      callbacks: Created again on a new chief.
      coordinator: Its watchdog is told what takes long.

    Attributes:
      has_state: Whether this process knows the state of the run. At first it does not.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        display: ProgressDisplay,
        state: RunState,
        journal: Journal,
        saver: Saver,
        callbacks: Callbacks,
        coordinator: Coordinator,
    ) -> None:
        self._experiment = experiment
        self._runtime = experiment.runtime
        self._folder = folder
        self._display = display
        self._state = state
        self._journal = journal
        self._saver = saver
        self._callbacks = callbacks
        self._coordinator = coordinator
        self.has_state = False
        self._was_member = not self._runtime.is_joining
        self._leads = self._runtime.is_chief
        self._facts = _digest(experiment) if self._runtime.is_elastic else ""

    def can_continue_after(self, error: Exception) -> bool:
        """Whether an error is only that the group changes."""
        changes = isinstance(error, GroupChangeError) or self._runtime.peer_error(error) is not None
        return self._runtime.is_elastic and changes

    def prepare(self) -> None:
        """Compiles the graphs, while the others train."""
        experiment = self._experiment
        groups = experiment.variables.values()
        initial = [(v.value, v.value.numpy()) for group in groups for v in group.values()]
        experiment.train(experiment.train_iterator(0), empty_train_sums(), 1)
        if "validation" in experiment.source.splits:
            experiment.evaluate_batches("validation", 1)
        # If all others are lost before the first checkpoint, the run begins with these weights.
        for variable, value in initial:
            variable.assign(value)

    def regroup(self, leave: str | None = None) -> None:
        """Joins the next group and takes over the most advanced state in it, if there is one.

        Args:
          leave: Signal on which this process leaves instead. The others must know it, and at least
            one of them must stay: it has the state of the run.

        Raises:
          Stopped: This process was asked to leave.
          PeerLost: This process cannot continue.
          SettingsError: This process is new, and has other settings, code or data.
        """
        start_s = time.monotonic()
        self._coordinator.expect("regrouping", slow=True)
        self._record_completed_steps()
        if leave is not None:
            self._stop_leading()
            self._runtime.leave()
            raise Stopped(f"left on {leave} at step {self._state.step}; the others continue")
        while True:
            try:
                self._runtime.regroup()
                self._synchronize()
                break
            except Exception as error:  # raised unless the group changes
                if not self.can_continue_after(error):
                    raise
        seconds = time.monotonic() - start_s
        if self._runtime.is_chief:
            self._journal.regrouped(self._state.step, self._runtime.changes, seconds)

    def wait_for_more(self, timer: StepTimer) -> None:
        """Waits until more processes have joined, while too few are left to train.

        Raises:
          GroupChangeError: The processes change, or those that are left have waited long enough.
          StopAgreedError: A stop was requested.
        """
        self._display.message(
            f"too few workers to train ({self._runtime.world_size}): the run is saved at step "
            f"{self._state.step} and waits for others"
        )
        while True:
            self._coordinator.agree(timer, "waiting for other workers")
            time.sleep(_WAIT_S)

    def _record_completed_steps(self) -> None:
        """Adds the steps that were complete when an error interrupted a call of the graph."""
        step = int(self._experiment.optimizer.iterations.numpy())
        if not self.has_state or step <= self._state.step:
            return
        completed = self._experiment.completed
        self._state.position.trained(completed.sums.numpy(), int(completed.bad_steps.numpy()))
        self._state.step, self._state.actions = step, 0

    def _synchronize(self) -> None:
        own = {
            "facts": self._facts,
            "state": self._state.as_message() if self.has_state else None,
            "progress": self._state.progress,
            "row": self._journal.last_row,
            "saved_step": self._saver.saved_step,
            "leads": self._leads,
            "was_member": self._was_member,
        }
        everyone = self._runtime.all_gather(own)
        if any(one.get("prepares") for one in everyone):
            self._part_from_preparing()
        self._was_member = True
        leaders = [rank for rank, one in enumerate(everyone) if one["leads"]]
        known = [rank for rank, one in enumerate(everyone) if one["state"] is not None]
        if not known:
            self._pass_leadership(leaders)
            return
        progress = {rank: everyone[rank]["progress"] for rank in known}
        source = max(known, key=lambda rank: (progress[rank], -rank))
        self._check_same(everyone, source)
        if len(set(map(tuple, progress.values()))) == 1 and len(known) == len(everyone):
            # Only exponents can differ, if a step was interrupted that was to be repeated.
            self._experiment.broadcast_scale(source)
        else:
            self._experiment.broadcast(source)
        self._state.take(everyone[source]["state"])
        self._journal.last_row = everyone[source]["row"]
        self._saver.saved_step = everyone[source]["saved_step"]
        self.has_state = True
        self._pass_leadership(leaders)

    def _part_from_preparing(self) -> None:
        """Leaves it to `regroup_while_preparing` of the others to resolve that they are behind."""
        if self._was_member:
            raise GroupChangeError
        self._runtime.leave()
        raise PeerLost("the others have to prepare the training again. Start this worker again")

    def _check_same(self, everyone: list[dict[str, Any]], source: int) -> None:
        """A newcomer with other settings, code or data leaves. The others form a new group."""
        most = self._experiment.config.microbatches or 1
        if not self.has_state and self._runtime.rank >= most:
            self._runtime.leave()
            raise SettingsError(
                f"{most} workers train already, and there are only {most} microbatches. Start "
                "fewer workers, or set train.microbatches to a larger number in a new run"
            )
        if not self.has_state and self._facts != everyone[source]["facts"]:
            self._runtime.leave()
            raise SettingsError(
                "this worker was started with other settings, code or data than the workers that "
                "train. Start it with the same recipe and settings, and give it the same files"
            )

    def _pass_leadership(self, leaders: list[int]) -> None:
        """Lets rank 0 write the run folder from now on."""
        if leaders == [0]:
            return
        if not self._runtime.is_chief:
            self._stop_leading()
        self._runtime.barrier()
        # The earlier chief may not have finished writing the newest checkpoint.
        self._saver.saved_step = on_chief(self._runtime, self._take_over)
        self._callbacks.reload()
        self._leads = self._runtime.is_chief

    def _stop_leading(self) -> None:
        """Writes what is pending and gives up the run folder."""
        if self._leads:
            self._saver.close()
            self._journal.flush()
            self._journal.close()
            self._folder.close()
            self._leads = False

    def _take_over(self) -> int:
        """Continues the files of the run in place of the earlier chief.

        Returns:
          The step of the newest checkpoint.
        """
        try:
            if not self._folder.lock.is_held:  # it is if this is repeated after another loss
                self._folder.lock.beat_s = ELASTIC_BEAT_S
                self._folder.lock.acquire(self._display.message, ELASTIC_STALE_S)
        except SettingsError as error:
            raise PeerLost(f"another part of the job holds the run folder: {error}") from None
        self._display.enable()
        saved_step = self._saver.take_over()
        if self.has_state:  # otherwise the run is resumed from its newest checkpoint
            actions = {"train": ROW_WRITTEN, "validation": EVALUATED}
            again = [split for split, number in actions.items() if self._state.actions < number]
            self._journal.take_over(self._state.step, again)
        return saved_step


def regroup_while_preparing(runtime: Runtime) -> None:
    """Joins the next group, before this process is ready to train.

    The others may be ready, if this process alone saw the error in the last exchange. It cannot
    catch up with them, because preparing needs exchanges between all processes.

    Raises:
      PeerLost: Others are ready to train. This process must start again and join them.
    """
    while True:
        try:
            runtime.regroup()
            everyone = runtime.all_gather({"prepares": True})
        except Exception as error:  # raised unless a process is lost
            if runtime.peer_error(error) is None:
                raise
            continue
        if all("prepares" in one for one in everyone):
            return
        if any(one.get("was_member") for one in everyone):
            raise PeerLost(
                "the others train already. Start this worker again, so that it joins them"
            )


def _digest(experiment: Experiment) -> str:
    """Digest of the settings, the code and the data, which must be equal on all processes."""
    facts = [settings_and_code(experiment.config), data_facts(experiment.source)]
    return hashlib.sha256(to_json(facts).encode()).hexdigest()
