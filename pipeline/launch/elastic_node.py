"""Supervises the workers of one node of an elastic job, and starts new ones for those that fail."""

from __future__ import annotations

import logging
import math
import secrets
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.launch.cooldown import Cooldown
from pipeline.launch.job import Job
from pipeline.launch.local_workers import LocalWorkers
from pipeline.launch.membership_server import GroupLink
from pipeline.launch.processes import Process, ProcessExit, exit_code
from pipeline.runtimes.worker_reports import GroupView, WorkerEnd

_LOG = logging.getLogger(__name__)

# Imports of large libraries keep other threads of a worker, and so its heartbeats, from running.
PREPARING_TIMEOUT_S = 120.0
# Until a worker reports for the first time, it may load its program from a slow file system.
STARTING_TIMEOUT_S = 600.0
_TICK_S = 0.02
_MAX_TAIL_LINE = 400


@dataclass
class _Slot:
    index: int
    cooldown: Cooldown = field(default_factory=Cooldown)
    process: Process | None = None
    worker: str = ""
    start_s: float = 0.0  # when to start the next process

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.end is None

    @property
    def has_ended(self) -> bool:
        """Whether its process has ended, and what follows is not decided yet."""
        return self.process is not None and self.process.end is not None and self.worker != ""


class ElasticNode:
    """The workers of this node.

    Args:
      job: The job.
      start: Starts a process for a slot, given its worker identifier and whether it is the slot's
        first.
      workers: The reports of the workers, which the membership server takes.
      group: The group of the job.
      stop: Stops the job, and returns True, if this launcher is the coordinator. After a signal
        to another one, its workers leave the job, because the signal concerns its node only.
      received: Signals that the launcher received. Handled signals are removed.

    Attributes:
      note: Why the launcher ended processes that had not failed themselves.
      is_leaving: Whether the workers of this node leave the job.
    """

    def __init__(
        self,
        job: Job,
        start: Callable[[int, str, bool], Process],
        workers: LocalWorkers,
        group: GroupLink,
        stop: Callable[[str], bool],
        received: list[int],
    ) -> None:
        self.note, self.is_leaving = "", False
        self._job, self._start, self._workers = job, start, workers
        self._timeouts = job.timeouts
        self._group, self._stop_job, self._received = group, stop, received
        self._slots = [_Slot(index) for index in range(job.slots)]
        self._reporting = threading.Lock()
        self._ends: list[tuple[str, str, ProcessExit]] = []
        self._tail = ""
        self._interrupts = 0
        self._terminate_s = self._kill_s = math.inf
        self._over = False
        self._tick_s = time.monotonic()

    def report(self) -> None:
        """Reports the state of the workers to the group. Any thread may call it."""
        with self._reporting:  # an older state must not follow a newer one
            self._group.update(self._job.index, self._workers.statuses())

    def run(self) -> int:
        """Supervises the workers until the job ends. Returns the exit code of this node."""
        while not (self._over and not any(slot.runs for slot in self._slots)):
            self._take_signals()
            self._start_due()
            self._notice_ends()
            self._kill_silent()
            view = self._group.advance()
            self._end_excluded(view)
            self._end_overdue(view)
            time.sleep(_TICK_S)
        view = self._group.view
        if view.give_up is not None:
            return view.code
        if self.is_leaving and not view.finished and not view.stop:
            return 75
        members = {member.worker for member in view.members}
        ends = [end for worker, _, end in self._ends if worker in members or not members]
        if view.finished and view.code == 0:
            # The run is complete, and was when these were lost.
            ends = [end for end in ends if end.status >= 0 and end.status != 76]
        # A node without members ends as the others do.
        return exit_code(ends) if ends else view.code or (75 if view.stop else 0)

    def describe(self) -> str:
        """Why the job failed, in lines for the user."""
        view = self._group.view
        last = {name: end.describe() for _, name, end in self._ends}
        mine = ", ".join(f"{name} {how}" for name, how in sorted(last.items()))
        lines = [self._tail if view.code not in (0, 76) else "", view.give_up or ""]
        lines += [f"on this node ({self._job.host}): {mine}", self.note]
        return "\n".join(line for line in lines if line)

    def _take_signals(self) -> None:
        while self._received:
            number = self._received.pop(0)
            self._interrupts += number == signal.SIGINT
            if self.is_leaving or not self._stop_job(signal.Signals(number).name):
                self.is_leaving = True
            for slot in self._slots:
                # Workers that have connected learn of the stop from the view.
                if slot.process is not None and (
                    self.is_leaving or not self._workers.has_reported(slot.worker)
                ):
                    slot.process.forward(signal.SIGTERM if self.is_leaving else number)
            # A user who presses Ctrl-C twice does not want to wait for a checkpoint.
            grace_s = self._job.grace_s if self._interrupts < 2 else self._timeouts.kill_after_s
            self._kill_s = min(self._kill_s, time.monotonic() + grace_s)

    def _start_due(self) -> None:
        if self._is_ending(self._group.view):
            return
        for slot in self._slots:
            if slot.runs or time.monotonic() < slot.start_s:
                continue
            is_first, slot.worker = slot.process is None, secrets.token_hex(16)
            self._workers.add(slot.worker, slot.index)
            slot.process = self._start(slot.index, slot.worker, is_first)
            slot.start_s = math.inf
            self.report()

    def _notice_ends(self) -> None:
        for slot in self._slots:
            process = slot.process
            if process is None or process.end is not None or (end := process.poll()) is None:
                continue
            name = self._name(slot)
            self._ends.append((slot.worker, name, end))
            if end.status > 0 and end.status not in (75, 76):
                self._tail = _describe_tail(name, process.tail())
            self._workers.end(slot.worker, WorkerEnd(end.status, end.describe()))
            self.report()
        for slot in self._slots:
            # The view says then what the end means for the job.
            if slot.has_ended and self._group.knows_end(slot.worker):
                self._plan_restart(slot)
                self._workers.forget(slot.worker)
                slot.worker = ""

    def _plan_restart(self, slot: _Slot) -> None:
        status = self._workers.status(slot.worker)
        if slot.process is None or status is None or status.end is None:
            return
        process, code = slot.process, status.end.status
        what = f"{self._name(slot)} {status.end.reason}"
        if self._is_ending(self._group.view):
            if code < 0:  # a killed process cannot report it itself
                process.say(what)
            return
        if code in (0, 2, 3):
            process.say(f"{what}. The others continue, and it is not started again")
            return
        # A worker that was asked to leave knows that its machine will go away.
        lost = (code < 0 and code != -signal.SIGTERM) or code == 76
        delay_s = slot.cooldown.fail(time.monotonic(), at_once=lost)
        slot.start_s = time.monotonic() + delay_s
        process.say(f"{what}. It is started again {f'in {delay_s:g} s' if delay_s else 'now'}")

    def _kill_silent(self) -> None:
        timeout_s = self._job.heartbeat_timeout_s
        now_s, before_s = time.monotonic(), self._tick_s
        self._tick_s = now_s
        if now_s - before_s > timeout_s / 2:
            # This launcher itself was stopped, and has not heard the workers.
            self._workers.hear_all()
            return
        silent = self._workers.silent(
            timeout_s, max(timeout_s, PREPARING_TIMEOUT_S), max(timeout_s, STARTING_TIMEOUT_S)
        )
        for worker, limit_s in silent:
            # A stopped process must never come back, because the others continue without it.
            reason = f"was killed because it had not answered for {limit_s:g} s"
            self._stop(worker, signal.SIGKILL)
            self._workers.end(worker, WorkerEnd(-signal.SIGKILL, reason))
            self.report()

    def _end_excluded(self, view: GroupView) -> None:
        for worker in view.excluded:
            self._stop(worker, signal.SIGKILL)

    def _end_overdue(self, view: GroupView) -> None:
        now_s = time.monotonic()
        failed = view.give_up is not None
        if (failed or view.finished) and not self._over:
            # After a failure, workers have some time to notice it, save, and exit.
            own_end_s, kill_after_s = self._timeouts.own_end_s, self._timeouts.kill_after_s
            self._terminate_s = now_s + own_end_s if failed else math.inf
            end_s = now_s + (own_end_s + kill_after_s if failed else self._job.grace_s)
            self._kill_s = min(self._kill_s, end_s)
            self._kill_newcomers(view)
        if view.stop and math.isinf(self._kill_s):  # on other nodes than 0
            self._kill_s = now_s + self._job.grace_s
        self._over = self._over or self._is_ending(view)
        if now_s >= self._kill_s:
            if not failed:
                self.note = f"not all workers ended within --grace-s {self._job.grace_s:g}"
            self._signal_all(signal.SIGKILL, because_of_another=failed)
        elif now_s >= self._terminate_s:
            self._terminate_s = math.inf
            self._signal_all(signal.SIGTERM, because_of_another=True)

    def _is_ending(self, view: GroupView) -> bool:
        """Whether no more workers are started."""
        has_ended = view.finished or view.give_up is not None
        return has_ended or view.stop is not None or self.is_leaving

    def _kill_newcomers(self, view: GroupView) -> None:
        """Kills workers that have not joined a group. They have nothing that could be lost."""
        members = {member.worker for member in view.members}
        for slot in self._slots:
            status = self._workers.status(slot.worker)
            is_newcomer = status is None or status.report.state in ("preparing", "waiting")
            if members and slot.runs and slot.worker not in members and is_newcomer:
                self._stop(slot.worker, signal.SIGKILL, because_of_another=True)

    def _signal_all(self, number: int, because_of_another: bool) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.stop(number, because_of_another)

    def _stop(self, worker: str, number: int, because_of_another: bool = False) -> None:
        for slot in self._slots:
            if slot.worker == worker and slot.process is not None:
                slot.process.stop(number, because_of_another)

    def _name(self, slot: _Slot) -> str:
        return f"worker {self._job.host}:{slot.index}"


def _describe_tail(name: str, tail: list[str]) -> str:
    if not tail:
        return ""
    lines = "\n".join(f"  | {line[:_MAX_TAIL_LINE]}" for line in tail)
    return f"the last lines of {name}:\n{lines}"
