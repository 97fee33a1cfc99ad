"""The group of an elastic job on several nodes, as each launcher reaches it.

The launcher of a node follows a coordinator, which may be itself. When the coordinator is gone, the
workers leave their collectives, the launchers meet at another one (meeting.py), and a new term
begins. Nothing that an earlier coordinator says counts any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pipeline.launch.coordinator import RECONNECT_S, ReplacedError
from pipeline.runtimes.worker_reports import (
    MAX_TEXT_LENGTH,
    NO_VERSION,
    GroupView,
    NodeReport,
    WorkerStatus,
)

_LOG = logging.getLogger(__name__)

_RETRY_S = 0.2
_CLOSING_S = 3.0
# After this share of the heartbeat timeout without an answer of the coordinator, the workers of
# this node leave their collectives. The coordinator forms a group without them only after the whole
# timeout.
_RELEASE_SHARE = 0.7


class Link(Protocol):
    """A connection to the group of the coordinator."""

    def exchange(self, report: NodeReport) -> GroupView | None:
        """Sends a report. Returns None if that launcher is not the coordinator of the job.

        Raises:
          ReplacedError: Another launcher has taken the place of this one.
          OSError: There is no answer.
        """

    def close(self) -> None: ...


class MeetingPlace(Protocol):
    """Finds the coordinator; see `Meeting`."""

    @property
    def attempt(self) -> str | None: ...

    @property
    def coordinator(self) -> int | None: ...

    def find(self, view: GroupView) -> None: ...

    def lose(self) -> None: ...

    def open(self) -> Link: ...

    def advance(self) -> None: ...

    def stop(self, reason: str) -> bool: ...


@dataclass(eq=False)
class _Term:
    """The time in which this node follows one coordinator.

    Attributes:
      coordinator: Index of its node.
      links: Connections to it, of one thread each.
      unsent: Set if the workers have changed since the last report.
      known: The newest view that it has sent.
      heard_s: When it was sent the last request that it has answered.
      refused_s: When nobody listened on its port. It has not answered since then.
      is_over: Whether the coordinator is gone.
    """

    coordinator: int
    links: tuple[Link, Link]
    unsent: threading.Event = field(default_factory=threading.Event)
    known: GroupView = field(default_factory=lambda: GroupView(version=NO_VERSION))
    heard_s: float = field(default_factory=time.monotonic)
    refused_s: float | None = None
    is_over: bool = False


class RemoteGroup:
    """Sends the state of this node's workers to the coordinator, and keeps the view of the group.

    One thread waits for newer views with a long poll. Another sends changes immediately.

    Args:
      index: Index of this node.
      launcher: Identifier of this launcher.
      meeting: Finds the coordinator. It has found one.
      heartbeat_timeout_s: How long the coordinator may be silent before it counts as gone.
      elastic_timeout_s: How long there may be no coordinator before this node gives up.
      job_error: Returns why the job has ended before it began, or None.

    Raises:
      OSError: The coordinator is gone.
    """

    def __init__(
        self,
        index: int,
        launcher: str,
        meeting: MeetingPlace,
        heartbeat_timeout_s: float,
        elastic_timeout_s: float,
        job_error: Callable[[], str | None],
    ) -> None:
        attempt = meeting.attempt or ""
        self._report = NodeReport(index, launcher, attempt, 0, NO_VERSION, ())
        self._meeting, self._job_error = meeting, job_error
        self._silent_s = heartbeat_timeout_s
        self._give_up_s = max(heartbeat_timeout_s, elastic_timeout_s)
        self._changed = threading.Condition()
        self._closed = threading.Event()
        # A worker of an earlier view must get the next one, too: versions only increase.
        self._view = GroupView(version=0)
        # The newest generation that any coordinator has told, with which this node may continue.
        self._newest = GroupView()
        # The generation that was shown when the term began, and is over.
        self._over = GroupView()
        self._delivered: tuple[WorkerStatus, ...] = ()
        self._answered_s = self._advanced_s = time.monotonic()
        self._problem = ""
        self._term = self._begin_term()

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
                self._term.unsent.set()
        return self._view

    def knows_end(self, worker: str) -> bool:
        """Whether the coordinator has been told that a worker of this node has ended."""
        return any(s.worker == worker and s.end is not None for s in self._delivered)

    def stop(self, reason: str) -> bool:
        """Asks all workers to save and stop. Returns False if this is not the coordinator."""
        return self._meeting.stop(reason)

    def advance(self) -> GroupView:
        """Releases the workers, looks for a coordinator, or gives up. Call it regularly."""
        self._meeting.advance()
        term, now_s, before_s = self._term, time.monotonic(), self._advanced_s
        self._advanced_s = now_s
        if now_s - before_s > self._silent_s / 2:
            term.heard_s, term.refused_s = now_s, None  # this launcher itself was stopped
        view, silent_s = self._view, now_s - term.heard_s
        if (error := self._job_error()) is not None:
            self._give_up(error)
        elif now_s - self._answered_s > self._give_up_s:
            waited = f"has not answered for {now_s - self._answered_s:.0f} s"
            self._give_up(f"the launcher of node {term.coordinator} {waited}")
        elif not (term.is_over or term.coordinator == self._report.index or _is_over(view)):
            refused_s = 0.0 if term.refused_s is None else now_s - term.refused_s
            if silent_s > self._silent_s or refused_s > min(RECONNECT_S, self._silent_s):
                self._end_term(term)
            elif silent_s > self._silent_s * _RELEASE_SHARE:
                self._release()
        return self._view

    def wait(self, version: int, timeout_s: float) -> GroupView:
        """Waits for a view that is newer than `version`, but at most `timeout_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._view.version > version, timeout_s)
            return self._view

    def close(self) -> None:
        """Stops communicating, after the coordinator knows the last state of the workers."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed.is_set() or self._delivered == self._report.workers, _CLOSING_S
            )
        self._closed.set()
        self._term.unsent.set()

    def _begin_term(self) -> _Term:
        """Follows the coordinator that was found."""
        coordinator = self._meeting.coordinator
        if coordinator is None:
            raise OSError("the launchers have no coordinator")
        term = _Term(coordinator, (self._meeting.open(), self._meeting.open()))
        with self._changed:
            self._over, self._delivered, self._term = self._view, (), term
        term.unsent.set()
        for loop in (self._listen, self._send):
            threading.Thread(target=loop, args=(term,), daemon=True).start()
        return term

    def _end_term(self, term: _Term) -> None:
        """Takes that the coordinator is gone, and looks for another one."""
        with self._changed:
            if term.is_over or term is not self._term:
                return
            term.is_over = True
            self._meeting.lose()
        term.unsent.set()
        self._release()
        _LOG.warning("the launcher of node %d does not answer", term.coordinator)
        threading.Thread(target=self._meet, daemon=True).start()

    def _meet(self) -> None:
        while not self._closed.is_set():
            try:
                self._meeting.find(self._newest)
                self._begin_term()
                return
            except OSError as error:
                self._problem = str(error)
                self._closed.wait(_RETRY_S)

    def _listen(self, term: _Term) -> None:
        link = term.links[0]
        while not (self._closed.is_set() or term.is_over):
            if not self._exchange(term, link, term.known.version):
                self._closed.wait(_RETRY_S)
        link.close()

    def _send(self, term: _Term) -> None:
        link = term.links[1]
        while not (self._closed.is_set() or term.is_over):
            term.unsent.wait()
            term.unsent.clear()
            if self._closed.is_set() or term.is_over:
                break
            if not self._exchange(term, link, NO_VERSION):
                term.unsent.set()
                self._closed.wait(_RETRY_S)
        link.close()

    def _exchange(self, term: _Term, link: Link, version: int) -> bool:
        """Sends the newest state to the coordinator. Returns whether it answered."""
        with self._changed:
            generation = max(self._view.generation, self._over.generation)
            self._report = replace(
                self._report, sequence=self._report.sequence + 1, generation=generation
            )
            report = replace(self._report, version=version)
        sent_s = time.monotonic()
        try:
            view = link.exchange(report)
        except ReplacedError:
            self._give_up("another launcher was started for this node")
            return True
        except (OSError, ValueError) as error:
            self._problem = str(error)
            if isinstance(error, ConnectionRefusedError) and term.refused_s is None:
                term.refused_s = sent_s
            return False
        if view is None:
            self._end_term(term)
            return False
        with self._changed:
            if not term.is_over:
                self._take(term, view, report, sent_s)
        return True

    def _take(self, term: _Term, view: GroupView, report: NodeReport, sent_s: float) -> None:
        self._answered_s = max(self._answered_s, sent_s)
        term.heard_s, term.refused_s = max(term.heard_s, sent_s), None
        self._problem = ""
        if view.version >= term.known.version:
            term.known = view
            if view.generation >= self._newest.generation:
                self._newest = view
            over = self._over
            if over.generation and view.generation <= over.generation:
                # The coordinator does not know yet that the workers have left this generation.
                view = replace(view, generation=over.generation, members=over.members, broken=True)
            self._show(view)
        self._delivered = report.workers
        self._changed.notify_all()

    def _release(self) -> None:
        """Makes the workers of this node leave their collectives."""
        with self._changed:
            if self._view.generation:
                self._show(replace(self._view, broken=True))

    def _give_up(self, text: str) -> None:
        text = f"{text} ({self._problem})" if self._problem else text
        give_up, code = self._view.give_up or text[:MAX_TEXT_LENGTH], self._view.code or 76
        self._show(replace(self._view, broken=True, give_up=give_up, code=code))
        self._closed.set()
        self._term.unsent.set()

    def _show(self, view: GroupView) -> None:
        """Replaces the view of this node's workers, under a version of its own."""
        with self._changed:
            if (
                replace(view, version=self._view.version) != self._view
                and not self._closed.is_set()
            ):
                self._view = replace(view, version=self._view.version + 1)
                self._changed.notify_all()


def _is_over(view: GroupView) -> bool:
    """Whether nothing is left to decide."""
    return view.finished or view.give_up is not None


def _without_steps(statuses: Sequence[WorkerStatus]) -> list[WorkerStatus]:
    return [
        replace(status, report=replace(status.report, step=0, sequence=0)) for status in statuses
    ]
