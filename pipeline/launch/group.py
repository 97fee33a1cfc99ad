"""The state machine of an elastic job: which workers train together, generation after generation.

It runs in the launcher that coordinates the job. It has no threads and does no input or output:
time is an argument, and the launchers report what happens to the workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from pipeline.launch.failures import Failures
from pipeline.launch.rules import Rules
from pipeline.runtimes.worker_reports import (
    MAX_TEXT_LENGTH,
    GroupView,
    Member,
    WorkerReport,
    WorkerStatus,
)

# Workers that become ready at about the same time join in one change.
SETTLE_S = 0.2


@dataclass(eq=False)
class _Worker:
    member: Member
    status: WorkerStatus
    waiting_s: float = 0.0
    excluded: bool = False
    is_member: bool = False

    @property
    def report(self) -> WorkerReport:
        return self.status.report

    @property
    def name(self) -> str:
        return f"worker {self.member.host}:{self.member.slot}"

    @property
    def alive(self) -> bool:
        return self.status.end is None and not self.excluded

    @property
    def takes_part(self) -> bool:
        return self.alive and self.report.state != "left"


class Group:
    """The workers of a job and their group.

    Args:
      rules: The options of the job.
      clock: Monotonic seconds.

    Attributes:
      view: The group as its workers see it.
    """

    def __init__(self, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self.view = GroupView()
        self._rules, self._clock, self._start_s = rules, clock, clock()
        self._workers: dict[str, _Worker] = {}
        self._members: list[_Worker] = []
        self._changes: list[str] = []
        self._failures = Failures()
        self._first_waiting_s: float | None = None
        self._below_since_s: float | None = None
        self._known_generation = 0

    def continue_from(self, view: GroupView) -> None:
        """Continues the group of a coordinator that is gone, as one of its nodes knew it.

        Its members are expected to report within the heartbeat timeout.
        """
        self.view = replace(view, broken=view.generation > 0)
        report = WorkerReport(state="running", generation=view.generation)
        for member in view.members:
            status = WorkerStatus(member.worker, member.slot, report)
            worker = _Worker(member, status, is_member=True)
            self._workers[member.worker] = worker
            self._members.append(worker)

    def note_generation(self, generation: int) -> None:
        """Takes a generation that another coordinator has formed. The next one is newer."""
        self._known_generation = max(self._known_generation, generation)

    def update(self, node: int, statuses: Iterable[WorkerStatus]) -> None:
        """Takes the state of all workers of a node. Workers that it no longer names are gone."""
        named = {status.worker: status for status in statuses}
        for status in named.values():
            self._take(node, status)
        for worker in [w for w in self._workers.values() if w.member.node == node]:
            if worker.status.worker not in named:
                self._exclude(worker, "was lost with its launcher")
                del self._workers[worker.status.worker]
        self.advance()

    def lose_node(self, node: int, reason: str) -> None:
        """Excludes all workers of a node whose launcher is silent, for ever."""
        for worker in [w for w in self._workers.values() if w.member.node == node]:
            self._exclude(worker, reason)
        self.advance()

    def stop(self, reason: str) -> None:
        """Asks all workers to save and stop."""
        if not self.view.stop:
            self._set(stop=reason)
        self.advance()

    def advance(self) -> None:
        """Makes the changes that are due. Call it regularly, because some are due after a time."""
        now_s = self._clock()
        if self.view.generation and not self._is_over:
            self._find_changes(now_s)
            self._exclude_late(now_s)
        if self._can_form(now_s):
            self._form()
        self._check_size(now_s)
        alive = [worker for worker in self._workers.values() if worker.status.end is None]
        self._set(excluded=tuple(worker.status.worker for worker in alive if worker.excluded))

    @property
    def _is_over(self) -> bool:
        return self.view.finished or self.view.give_up is not None

    @property
    def _participants(self) -> list[_Worker]:
        return [worker for worker in self._members if worker.takes_part]

    def _take(self, node: int, status: WorkerStatus) -> None:
        member = Member(status.worker, node, status.slot, self._rules.hosts[node])
        worker = self._workers.setdefault(
            status.worker, _Worker(member, replace(status, report=WorkerReport(), end=None))
        )
        before = worker.status
        if before.end is not None:
            return
        if status.report.sequence < before.report.sequence:
            status = replace(status, report=before.report)
        worker.status = status
        if status.report.state == "waiting" and before.report.state != "waiting":
            worker.waiting_s = self._clock()
        if worker.is_member:
            self._failures.note_step(status.report.step)
            if status.report.state == "left" and before.report.state != "left":
                self._changes.append(f"{worker.name} left")
        if status.end is not None and not worker.excluded:
            self._take_end(worker, status.end.status, status.end.reason)

    def _take_end(self, worker: _Worker, status: int, reason: str) -> None:
        if self.view.generation == 0:
            if status == 0 or (status == 75 and self.view.stop):
                self._finish(status)
            elif status > 0 and status != 75:
                self._fail(status, f"{worker.name} {reason}")
        elif not worker.is_member or worker.report.state == "left":
            pass
        elif status in (0, 75):
            self._finish(status)
        elif status in (2, 3):
            self._lose(worker, reason)
            self._fail(status, f"{worker.name} {reason}")
        else:
            self._lose(worker, reason)
            size, now_s = len(self._members), self._clock()
            if status > 0 and status != 76 and self._failures.add(status, size, now_s):
                self._fail(status, f"every worker failed at the same step: {worker.name} {reason}")

    def _exclude(self, worker: _Worker, reason: str) -> None:
        if worker.alive:
            worker.excluded = True
            if worker.is_member and worker.report.state != "left":
                self._lose(worker, reason)

    def _lose(self, worker: _Worker, reason: str) -> None:
        self._changes.append(f"{worker.name} {reason}")
        self._set(broken=True)

    def _candidates(self) -> list[_Worker]:
        """Workers that wait to join, in the order in which they get ranks."""
        found = [
            worker
            for worker in self._workers.values()
            if worker.alive and not worker.is_member and worker.report.state == "waiting"
        ]
        return sorted(found, key=lambda worker: (worker.member.node, worker.member.slot))

    def _find_changes(self, now_s: float) -> None:
        waiting = [worker.waiting_s for worker in self._participants if self._is_waiting(worker)]
        self._first_waiting_s = min(waiting, default=None)
        changing = any(worker.report.state in ("leaving", "left") for worker in self._members)
        if not self.view.stop and len(self._participants) < self._rules.maximum:
            changing |= any(now_s - w.waiting_s >= SETTLE_S for w in self._candidates())
        # A change remains due if the newcomer dies: members may already be waiting.
        self._set(changing=changing or self.view.changing)
        if self._first_waiting_s is None:
            return
        # A member that waits when no change is due has seen an error in a collective. The others
        # may not see it. If a change is due, they come at the next step boundary.
        late_s = now_s - self._first_waiting_s
        if not self.view.changing or late_s > self._rules.heartbeat_timeout_s:
            self._set(broken=True)

    def _exclude_late(self, now_s: float) -> None:
        limit_s = self._rules.elastic_timeout_s
        if self._first_waiting_s is not None and now_s - self._first_waiting_s > limit_s:
            for worker in self._participants:
                if not self._is_waiting(worker):
                    self._exclude(worker, f"did not come to a new generation within {limit_s:g} s")

    def _is_waiting(self, worker: _Worker) -> bool:
        """Whether a member is out of the newest generation."""
        report = worker.report
        return report.state == "waiting" and report.generation >= self.view.generation

    def _can_form(self, now_s: float) -> bool:
        if self._is_over:
            return False
        if self.view.generation:
            due = self.view.broken or self.view.changing
            return (
                due and bool(self._participants) and all(map(self._is_waiting, self._participants))
            )
        ready = len(self._candidates())
        late = now_s - self._start_s >= self._rules.wait_s
        everyone = min(len(self._rules.hosts) * self._rules.slots, self._rules.maximum)
        return not self.view.stop and ready >= (self._rules.minimum if late else everyone)

    def _form(self) -> None:
        staying = self._participants
        joining = self._candidates()[: self._rules.maximum - len(staying)]
        if self.view.stop:
            joining = []
        if self.view.generation:
            self._changes += [f"{worker.name} joined" for worker in joining]
        for worker in self._members:
            worker.is_member = False
        self._members = staying + joining
        for worker in self._members:
            worker.is_member = True
        self._set(
            generation=max(self.view.generation, self._known_generation) + 1,
            members=tuple(worker.member for worker in self._members),
            broken=False,
            changing=False,
            paused=len(self._members) < self._rules.minimum,
            changes=tuple(self._changes),
        )
        self._changes = []

    def _check_size(self, now_s: float) -> None:
        if self._is_over:
            return
        present = self._participants if self.view.generation else self._reporting
        if self.view.generation and not present:
            have_left = all(worker.report.state == "left" for worker in self._members)
            if have_left or self.view.stop:  # the exit codes say whether a worker was killed
                self._finish(75)
            else:
                self._fail(self._failures.code or 76, f"all workers were lost: {self._described}")
            return
        if len(present) >= self._rules.minimum or self.view.stop:
            self._below_since_s = None
        elif self._below_since_s is None:
            self._below_since_s = now_s if self.view.generation else self._start_s
        if self._below_since_s is None:
            return
        option, limit_s = "--elastic-timeout-s", self._rules.elastic_timeout_s
        if not self.view.generation:
            option, limit_s = "--wait-s", self._rules.wait_s
        if now_s - self._below_since_s >= limit_s:
            self._fail(
                76,
                f"gave up after {option} {limit_s:g}: {len(present)} of at least "
                f"{self._rules.minimum} workers are present ({self._described})",
            )

    @property
    def _reporting(self) -> list[_Worker]:
        return [w for w in self._workers.values() if w.alive and w.report.sequence > 0]

    @property
    def _described(self) -> str:
        """The last changes, or which workers are missing."""
        if self.view.generation:
            return "; ".join(self._changes or self.view.changes) or "no worker has returned"
        here = {(worker.member.node, worker.member.slot) for worker in self._reporting}
        missing = [
            f"{host}:{slot}"
            for node, host in enumerate(self._rules.hosts)
            for slot in range(self._rules.slots)
            if (node, slot) not in here
        ]
        return f"missing: {', '.join(missing)}"

    def _finish(self, code: int) -> None:
        if not self._is_over:
            self._set(finished=True, code=code)

    def _fail(self, code: int, text: str) -> None:
        if not self._is_over or code in (2, 3):
            text = text[:MAX_TEXT_LENGTH]
            self._set(give_up=self.view.give_up or text, code=self.view.code or code)

    def _set(self, **changes: object) -> None:
        changed = replace(self.view, **changes)  # type: ignore[arg-type]
        if changed != self.view:
            self.view = replace(changed, version=self.view.version + 1)
