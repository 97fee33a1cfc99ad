"""What a launcher of an elastic job serves to its workers, at 127.0.0.1 below a secret path.

    POST /membership/WORKER       takes a WorkerReport, returns a GroupView
    any  /gGENERATION:PORT/...    Horovod's key-value store of one generation (store.py)

The first is a long poll: it is answered when there is a newer view than the worker has, and at the
latest after about a second. The request is also the heartbeat of the worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from pipeline.launch.bounded_http import Response
from pipeline.launch.local_workers import LocalWorkers
from pipeline.launch.store import Answer
from pipeline.runtimes.messages import read, write
from pipeline.runtimes.worker_reports import GroupView, WorkerReport, WorkerStatus

_MEMBERSHIP = re.compile(r"/membership/([0-9a-f]{32})")
_MAX_HELD_S = 1.0
# A sender is heard at least this many times before it counts as silent.
_HEARTBEATS_PER_TIMEOUT = 5


def held_s(heartbeat_timeout_s: float) -> float:
    """How long a request may be held until there is a newer view."""
    return min(_MAX_HELD_S, heartbeat_timeout_s / _HEARTBEATS_PER_TIMEOUT)


class GroupLink(Protocol):
    """The group, as the launcher of a node reaches it."""

    @property
    def view(self) -> GroupView: ...

    def update(self, node: int, statuses: Sequence[WorkerStatus]) -> GroupView:
        """Takes the state of all workers of a node."""

    def knows_end(self, worker: str) -> bool:
        """Whether the group knows that a worker has ended, so that it need not be told again."""

    def advance(self) -> GroupView:
        """Makes the changes that are due. Call it regularly."""

    def wait(self, version: int, timeout_s: float) -> GroupView:
        """Waits for a view that is newer than `version`, but at most `timeout_s` seconds."""


class MembershipServer:
    """Answers the requests of this node's workers.

    Args:
      workers: Takes the reports.
      link: Returns the view of the group.
      report: Called after a worker has reported, so that the group learns of it.
      store: Answers requests to the store of a generation.
      heartbeat_timeout_s: How long a worker may be silent.
    """

    def __init__(
        self,
        workers: LocalWorkers,
        link: GroupLink,
        report: Callable[[], None],
        store: Answer,
        heartbeat_timeout_s: float,
    ) -> None:
        self._workers, self._link, self._report, self._store = workers, link, report, store
        self._held_s = held_s(heartbeat_timeout_s)

    def answer(self, method: str, path: str, body: bytes) -> Response:
        """Answers a request. The path begins after the secret."""
        if (found := _MEMBERSHIP.fullmatch(path)) is not None:
            return self._answer_worker(method, found[1], body)
        return self._store(method, path, body)

    def _answer_worker(self, method: str, worker: str, body: bytes) -> Response:
        if method != "POST":
            return Response(405)
        try:
            report = read(WorkerReport, body)
        except ValueError as error:
            return Response(400, str(error).encode())
        if not self._workers.take(worker, report):
            return Response(410)
        self._report()
        return Response(200, write(self._link.wait(report.version, self._held_s)))
