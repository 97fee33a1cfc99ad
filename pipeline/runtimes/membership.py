"""The membership of this process in the group of an elastic job, from `vit launch --min-workers`.

A thread asks the launcher for the view of the group. The launcher answers when there is a newer
one, and at the latest after about a second, so that the requests are also the heartbeat of this
process. A second thread sends changes of this process's state immediately.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple

from pipeline.errors import PeerLost, SettingsError, Stopped
from pipeline.runtimes.environment import MEMBERSHIP, WORKER, Slot, find_slot
from pipeline.runtimes.messages import read, write
from pipeline.runtimes.worker_reports import NO_VERSION, GroupView, State, WorkerReport

# How often a broken generation is released again: an operation may begin after the first time.
_RELEASE_EVERY_S = 0.05
_RETRY_S = 0.1
# A launcher that has not answered for this long is gone.
_LAUNCHER_SILENT_S = 10.0
_TIMEOUT_S = 5.0


class Generation(NamedTuple):
    """This process's place in a generation of the group.

    Attributes:
      number: Number of the generation; 1 is the first.
      paused: There are fewer members than the minimum.
      changes: Who joined or left with this generation, and why.
      variables: Environment variables with which Horovod connects the members.
    """

    number: int
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    paused: bool
    changes: tuple[str, ...]
    variables: Mapping[str, str]


class Membership:
    """The connection of this process to its launcher. Each process has one.

    Args:
      address: HOST:PORT/PATH of the launcher.
      worker: Identifier of this process.
      slot: Place of this process, which does not change.

    Attributes:
      slot: See above.
      joins_late: Whether a group existed when this process connected.
      on_broken: Called from a thread if the current generation is broken, and again every 50 ms
        until `wait_for_generation` is called. It should make blocked operations fail.

    Raises:
      PeerLost: The launcher does not answer.
    """

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
        self._heard_s = time.monotonic()
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

    def report(
        self,
        *,
        step: int | None = None,
        fingerprint: str | None = None,
        leaving: bool | None = None,
    ) -> None:
        """Takes what is new about this process. It returns immediately; a thread sends it.

        Args:
          step: The last completed training step. It is sent with the next heartbeat.
          fingerprint: Digest of settings, code and data, equal on all workers of a job.
          leaving: Whether this process wants to leave at the next step boundary.
        """
        with self._changed:
            if leaving is not None:
                self._wants_to_leave = leaving
            self._update(
                state=self._state_in_group if self._is_member else self._report.state,
                step=self._report.step if step is None else step,
                fingerprint=self._report.fingerprint if fingerprint is None else fingerprint,
            )

    def wait_for_generation(self) -> Generation:
        """Leaves the current generation, if any, and waits for the next one.

        Raises:
          PeerLost: The job cannot continue, or continues without this process.
          SettingsError: The settings, code or data of this process differ from the group's.
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
                if view.generation > self._report.generation and self._rank(view) is not None:
                    # A generation that broke at once is acknowledged, and not joined.
                    self._update(generation=view.generation)
                    if not view.broken:
                        self._update(state=self._state_in_group)
                        return self._generation(view)
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
        return time.monotonic() - self._heard_s > _LAUNCHER_SILENT_S

    def _update(self, **changes: object) -> None:
        changed = replace(self._report, **changes)  # type: ignore[arg-type]
        if changed != self._report:
            self._report = replace(changed, sequence=changed.sequence + 1)
            self._changed.notify_all()

    def _check(self) -> None:
        view = self._view
        was_member = self._report.generation > 0
        if (reason := view.refused.get(self._worker)) is not None:
            raise SettingsError(reason)
        if view.give_up:
            raise PeerLost(view.give_up)
        if view.stop and not was_member:
            raise Stopped(f"the job stops ({view.stop}) before this worker has joined")
        if view.finished:
            if not was_member:
                raise Stopped("the run ended before this worker joined")
            raise PeerLost("the run has ended on another worker. Start the job again")
        left_out = view.generation > self._report.generation > 0 and self._rank(view) is None
        if left_out or self._worker in view.excluded:
            raise PeerLost("the others continue without this worker: it did not answer in time")
        if self._launcher_is_silent:
            raise PeerLost(f"the launcher has not answered for {_LAUNCHER_SILENT_S:g} s")

    def _rank(self, view: GroupView) -> int | None:
        workers = [member.worker for member in view.members]
        return workers.index(self._worker) if self._worker in workers else None

    def _generation(self, view: GroupView) -> Generation:
        rank = self._rank(view) or 0
        own = view.members[rank]
        counts: dict[int, int] = {}
        local_ranks = []
        for member in view.members:
            local_ranks.append(counts.get(member.node, 0))
            counts[member.node] = local_ranks[-1] + 1
        # Cross ranks count the nodes that have a process with this local rank.
        across = [other for other, local in enumerate(local_ranks) if local == local_ranks[rank]]
        generation = Generation(
            number=view.generation,
            rank=rank,
            size=len(view.members),
            local_rank=local_ranks[rank],
            local_size=counts[own.node],
            cross_rank=across.index(rank),
            cross_size=len(across),
            paused=view.paused,
            changes=view.changes,
            variables={},
        )
        return generation._replace(variables=self._variables(generation, own.host))

    def _variables(self, generation: Generation, host: str) -> dict[str, str]:
        return {
            "HOROVOD_RANK": str(generation.rank),
            "HOROVOD_SIZE": str(generation.size),
            "HOROVOD_LOCAL_RANK": str(generation.local_rank),
            "HOROVOD_LOCAL_SIZE": str(generation.local_size),
            "HOROVOD_CROSS_RANK": str(generation.cross_rank),
            "HOROVOD_CROSS_SIZE": str(generation.cross_size),
            "HOROVOD_HOSTNAME": host,
            # Each generation has a key-value store of its own (launch/membership_server.py).
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": f"{self._address}/g{generation.number}",
            "HOROVOD_GLOO_RENDEZVOUS_PORT": str(self._port),
        }

    def _listen(self) -> None:
        while not self._closed.is_set():
            if not self._ask(replace(self._report, version=self._view.version)):
                self._closed.wait(_RETRY_S)

    def _send(self) -> None:
        """Sends changes of the state at once, and releases a broken generation."""
        sent = ("preparing", 0, "")
        while not self._closed.is_set():
            with self._changed:
                report = self._report
                state = (report.state, report.generation, report.fingerprint)
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
        )

    def _ask(self, report: WorkerReport) -> bool:
        """Sends a report and takes the view. Returns whether the launcher answered."""
        connection = HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            headers = {"Host": f"{self._host}:{self._port}"}
            path = f"{self._path}/membership/{self._worker}"
            connection.request("POST", path, write(report), headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                return False
            view = read(GroupView, body)
        except (OSError, HTTPException, ValueError):
            return False
        finally:
            connection.close()
        with self._changed:
            self._heard_s = time.monotonic()
            self._sent_sequence = max(self._sent_sequence, report.sequence)
            if view.version > self._view.version:
                self._view = view
            self._changed.notify_all()
        return True


def _do_nothing() -> None:
    """The default of `Membership.on_broken`."""
