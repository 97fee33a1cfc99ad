"""The group of an elastic job, as the launcher of another node than 0 reaches it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.launch.rendezvous import Connection
from pipeline.printable import printable
from pipeline.runtimes.messages import read, write
from pipeline.runtimes.worker_reports import (
    MAX_TEXT_LENGTH,
    NO_VERSION,
    GroupView,
    NodeReport,
    WorkerStatus,
)

_RETRY_S = 0.2
_CLOSING_S = 3.0
# After this share of the heartbeat timeout without an answer of node 0, the workers of this node
# leave their collectives. Node 0 forms a group without them only after the whole timeout.
_RELEASE_SHARE = 0.7


class RemoteGroup:
    """Sends the state of this node's workers to node 0, and keeps the view of the group.

    One thread waits for newer views with a long poll. Another sends changes immediately.

    Args:
      index: Index of this node.
      launcher: Identifier of this launcher.
      attempt: Identifier of the attempt of the job.
      connect: Opens a connection to node 0.
      heartbeat_timeout_s: How long node 0 may be silent before the workers count as lost.
      elastic_timeout_s: How long node 0 may be silent before this node gives up.
      job_error: Returns why node 0 has ended the job before it began, or None.
    """

    def __init__(
        self,
        index: int,
        launcher: str,
        attempt: str,
        connect: Callable[[], Connection],
        heartbeat_timeout_s: float,
        elastic_timeout_s: float,
        job_error: Callable[[], str | None],
    ) -> None:
        self._report = NodeReport(index, launcher, attempt, 0, NO_VERSION, ())
        self._connect, self._job_error = connect, job_error
        self._release_s = heartbeat_timeout_s * _RELEASE_SHARE
        self._give_up_s = max(heartbeat_timeout_s, elastic_timeout_s)
        self._changed = threading.Condition()
        self._unsent, self._closed = threading.Event(), threading.Event()
        # A worker of an earlier view must get this one, too: versions only increase.
        self._known = GroupView(version=NO_VERSION)
        self._view = GroupView(version=0)
        self._delivered: tuple[WorkerStatus, ...] = ()
        self._answered_s = time.monotonic()
        self._problem = ""
        for loop in (self._listen, self._send):
            threading.Thread(target=loop, daemon=True).start()

    @property
    def view(self) -> GroupView:
        return self._view

    def update(self, node: int, statuses: Sequence[WorkerStatus]) -> GroupView:
        """Takes the state of all workers of this node. A thread sends it."""
        with self._changed:
            before, self._report = (
                self._report.workers,
                replace(self._report, workers=tuple(statuses)),
            )
        # Steps are sent with the next heartbeat.
        if _without_steps(before) != _without_steps(statuses):
            self._unsent.set()
        return self._view

    def knows_end(self, worker: str) -> bool:
        """Whether node 0 has been told that a worker of this node has ended."""
        return any(s.worker == worker and s.end is not None for s in self._delivered)

    def advance(self) -> GroupView:
        """Releases the workers or gives up when node 0 is silent. Call it regularly."""
        silent_s = time.monotonic() - self._answered_s
        if (error := self._job_error()) is not None:
            self._give_up(error)
        elif silent_s > self._give_up_s:
            self._give_up(f"the launcher of node 0 has not answered for {silent_s:.0f} s")
        elif silent_s > self._release_s and self._view.generation:
            self._show(replace(self._view, broken=True))
        return self._view

    def wait(self, version: int, timeout_s: float) -> GroupView:
        """Waits for a view that is newer than `version`, but at most `timeout_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._view.version > version, timeout_s)
            return self._view

    def close(self) -> None:
        """Stops communicating, after node 0 knows the last state of the workers."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed.is_set() or self._delivered == self._report.workers, _CLOSING_S
            )
        self._closed.set()
        self._unsent.set()

    def _listen(self) -> None:
        connection = self._connect()
        while not self._closed.is_set():
            if not self._exchange(connection, self._known.version):
                self._closed.wait(_RETRY_S)
        connection.close()

    def _send(self) -> None:
        connection = self._connect()
        while not self._closed.is_set():
            self._unsent.wait()
            self._unsent.clear()
            if not self._closed.is_set() and not self._exchange(connection, NO_VERSION):
                self._unsent.set()
                self._closed.wait(_RETRY_S)
        connection.close()

    def _exchange(self, connection: Connection, version: int) -> bool:
        """Sends the newest state over a connection. Returns whether node 0 answered."""
        with self._changed:
            self._report = replace(self._report, sequence=self._report.sequence + 1)
            report = replace(self._report, version=version)
        sent_s = time.monotonic()
        try:
            status, body = connection.ask("POST", "/group", write(report))
            if status == 409:
                self._give_up("the launcher of node 0, or of this node, was started again")
                return True
            if status != 200:
                raise ValueError(f"status {status}: {printable(body[:300].decode())}")
            view = read(GroupView, body)
        except (OSError, ValueError) as error:
            self._problem = str(error)
            return False
        with self._changed:
            self._answered_s = max(self._answered_s, sent_s)
            self._problem = ""
            if view.version >= self._known.version:
                self._known = view
                self._show(view)
            self._delivered = report.workers
            self._changed.notify_all()
        return True

    def _give_up(self, text: str) -> None:
        text = f"{text} ({self._problem})" if self._problem else text
        give_up, code = self._view.give_up or text[:MAX_TEXT_LENGTH], self._view.code or 76
        self._show(replace(self._view, broken=True, give_up=give_up, code=code))
        self._closed.set()

    def _show(self, view: GroupView) -> None:
        """Replaces the view of this node's workers, under a version of its own."""
        with self._changed:
            if (
                replace(view, version=self._view.version) != self._view
                and not self._closed.is_set()
            ):
                self._view = replace(view, version=self._view.version + 1)
                self._changed.notify_all()


def _without_steps(statuses: Sequence[WorkerStatus]) -> list[WorkerStatus]:
    return [
        replace(status, report=replace(status.report, step=0, sequence=0)) for status in statuses
    ]
