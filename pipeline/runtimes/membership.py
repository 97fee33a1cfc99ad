"""The membership of this process in the group of an elastic job, from `vit launch --min-workers`.

A thread asks the launcher for the view of the group. The launcher answers when there is a newer
one, and at the latest after about a second, so that the requests are also the heartbeat of this
process. A second thread sends changes of this process's state immediately.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection, HTTPException

from pipeline.errors import PeerLost, SettingsError, Stopped
from pipeline.runtimes.environment import MEMBERSHIP, WORKER, Slot, find_slot
from pipeline.runtimes.generation import Generation, find_generation, is_member
from pipeline.runtimes.messages import read, write
from pipeline.runtimes.worker_reports import NO_VERSION, GroupView, State, WorkerReport

__all__ = ["Generation", "Membership"]

# How often a broken generation is released again: an operation may begin after the first time.
_RELEASE_EVERY_S = 0.05
_RETRY_S = 0.1
# A launcher that has not answered for this long hangs. If it ends, the kernel kills this process.
_LAUNCHER_SILENT_S = 60.0
_TIMEOUT_S = 5.0


class Membership:
    """The connection of this process to its launcher. Each process has one.

    Args:
      address: HOST:PORT/PATH of the launcher.
      worker: Identifier of this process.
      slot: Place of this process, which does not change.

    Attributes:
      slot: See above.
      joins_late: Whether a group existed when this process connected.
      is_told_late: Whether only the first exchange with the others shows if they train already.
      device_place: Index of this process among those that see the same GPUs, and their number.
      on_broken: Called from a thread if the current generation is broken, and again every 50 ms
        until `wait_for_generation` is called. It should make blocked operations fail.

    Raises:
      PeerLost: The launcher does not answer.
    """

    is_told_late = False
    device_place = (0, 1)  # the launcher shows each process its own GPU only

    def __init__(self, address: str, worker: str, slot: Slot) -> None:
        self.slot = slot
        self.on_broken: Callable[[], None] = _do_nothing
        self._address = address
        where, _, path = address.partition("/")
        self._host, _, port = where.partition(":")
        self._port, self._path = int(port), f"/{path}"
        self._worker = worker
        self._changed, self._releasing = threading.Condition(), threading.Lock()
        self._report = WorkerReport(sequence=1)
        self._sent_sequence = 0
        self._wants_to_leave = False
        # Since when requests fail. The time of the last answer would be misleading after this
        # process itself was stopped for a while.
        self._failing_since_s: float | None = None
        self._closed = threading.Event()
        self._view = GroupView(version=NO_VERSION)
        if not self._ask(self._report):
            raise PeerLost(f"the launcher at {where} does not answer")
        self.joins_late = self._view.generation > 0
        for loop in (self._listen, self._send):
            threading.Thread(target=loop, name=f"membership-{loop.__name__}", daemon=True).start()

    @classmethod
    def connect(cls, environment: Mapping[str, str]) -> Membership | None:
        """Connects to the launcher; None if the job is not elastic.

        Raises:
          PeerLost: The launcher does not answer.
          SettingsError: A variable has an invalid value.
        """
        if MEMBERSHIP not in environment:
            return None
        if WORKER not in environment:
            raise SettingsError(f"{WORKER} must be set as vit launch sets it. It is missing")
        return cls(environment[MEMBERSHIP], environment[WORKER], find_slot(environment))

    @property
    def change_pending(self) -> bool:
        """Whether the members must meet for a new generation at the next step boundary."""
        view, mine = self._view, self._report.generation
        return bool(
            view.broken
            or view.changing
            or view.generation > mine
            or view.give_up
            or self._worker in view.excluded
            or self._launcher_is_silent
        )

    @property
    def stop_reason(self) -> str | None:
        """Why the whole job must save and stop, or None."""
        return self._view.stop

    def report(self, *, step: int | None = None, leaving: bool | None = None) -> None:
        """Takes what is new about this process. It returns immediately; a thread sends it.

        Args:
          step: The last completed training step. It is sent with the next heartbeat.
          leaving: Whether this process wants to leave at the next step boundary.
        """
        with self._changed:
            if leaving is not None:
                self._wants_to_leave = leaving
            self._update(
                state=self._state_in_group if self._is_member else self._report.state,
                step=self._report.step if step is None else step,
            )

    def wait_for_generation(self) -> Generation:
        """Leaves the current generation, if any, and waits for the next one.

        Raises:
          PeerLost: The job cannot continue, or continues without this process.
          Stopped: The job stops or has finished before this process joined it.
        """
        with self._changed:
            self._update(state="waiting")
        with self._releasing:
            pass  # on_broken may be running, and must not disturb the next generation
        with self._changed:
            while True:
                self._check()
                view = self._view
                if view.generation > self._report.generation and is_member(self._worker, view):
                    # A generation that broke at once is acknowledged, and not joined.
                    self._update(generation=view.generation)
                    if not view.broken:
                        self._update(state=self._state_in_group)
                        return find_generation(view, self._worker, self._address, self._port)
                self._changed.wait(0.5)

    def leave(self) -> None:
        """Leaves the group. Returns when the launcher knows it, or if it does not answer."""
        with self._changed:
            self._update(state="left")
            sequence = self._report.sequence
            while self._sent_sequence < sequence and not self._launcher_is_silent:
                self._changed.wait(0.1)

    def close(self) -> None:
        """Ends the connection. A launcher that hears no more of this process kills it."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()

    @property
    def _is_member(self) -> bool:
        return self._report.state in ("running", "leaving")

    @property
    def _state_in_group(self) -> State:
        return "leaving" if self._wants_to_leave else "running"

    @property
    def _launcher_is_silent(self) -> bool:
        since_s = self._failing_since_s
        return since_s is not None and time.monotonic() - since_s > _LAUNCHER_SILENT_S

    def _update(self, **changes: object) -> None:
        changed = replace(self._report, **changes)  # type: ignore[arg-type]
        if changed != self._report:
            self._report = replace(changed, sequence=changed.sequence + 1)
            self._changed.notify_all()

    def _check(self) -> None:
        view = self._view
        was_member = self._report.generation > 0
        if view.give_up:
            raise PeerLost(view.give_up)
        if view.stop and not was_member:
            raise Stopped(f"the job stops ({view.stop}) before this worker has joined")
        if view.finished:
            if not was_member:
                raise Stopped("the run ended before this worker joined")
            raise PeerLost("the run has ended on another worker. Start the job again")
        left_out = view.generation > self._report.generation > 0 and not is_member(
            self._worker, view
        )
        if left_out or self._worker in view.excluded:
            raise PeerLost("the others continue without this worker: it did not answer in time")
        if self._launcher_is_silent:
            raise PeerLost(f"the launcher has not answered for {_LAUNCHER_SILENT_S:g} s")

    def _listen(self) -> None:
        while not self._closed.is_set():
            if not self._ask(replace(self._report, version=self._view.version)):
                with self._changed:
                    self._changed.notify_all()
                self._closed.wait(_RETRY_S)

    def _send(self) -> None:
        """Sends changes of the state at once, and releases a broken generation."""
        sent = ("preparing", 0)
        while not self._closed.is_set():
            with self._changed:
                report = self._report
                state = (report.state, report.generation)
                if state == sent:
                    self._changed.wait(_RELEASE_EVERY_S if self._is_blocked() else None)
            with self._releasing:
                if self._is_blocked():
                    self.on_broken()
            if state != sent and self._ask(replace(report, version=NO_VERSION)):
                sent = state

    def _is_blocked(self) -> bool:
        """Whether this process may be in an operation that will never complete."""
        view = self._view
        return self._is_member and (
            view.generation > self._report.generation
            or (view.broken and view.generation == self._report.generation)
            or self._launcher_is_silent
        )

    def _ask(self, report: WorkerReport) -> bool:
        """Sends a report and takes the view. Returns whether the launcher answered."""
        try:
            view = self._request(report)
        except (OSError, HTTPException, ValueError):
            if self._failing_since_s is None:
                self._failing_since_s = time.monotonic()
            return False
        with self._changed:
            self._failing_since_s = None
            self._sent_sequence = max(self._sent_sequence, report.sequence)
            if view.version > self._view.version:
                self._view = view
            self._changed.notify_all()
        return True

    def _request(self, report: WorkerReport) -> GroupView:
        headers = {"Host": f"{self._host}:{self._port}"}
        path = f"{self._path}/membership/{self._worker}"
        with closing(HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)) as connection:
            connection.request("POST", path, write(report), headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            return read(GroupView, body)


def _do_nothing() -> None:
    """The default of `Membership.on_broken`."""
