"""Node 0's knowledge about the nodes of the job.

Every launcher sends a Report on its node about once per second and receives a View of the job. Only
launchers that know the token of the job get this far.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.launch.reports import Report, View
from pipeline.launch.timeouts import Timeouts

# Before the start, a launcher that has been silent for this long may be replaced by a new one.
_REPLACED_AFTER_S = 3.0


@dataclass
class _Node:
    report: Report
    seen_s: float
    knows_outcome: bool = False


@dataclass
class Registry:
    """The reports of all nodes, kept by node 0. It is thread-safe.

    Args:
      hosts: Names of the nodes by index, for messages.
      attempt: Random identifier of this registry.
      facts: Settings of node 0, which must be equal on all nodes.
      clock: Monotonic seconds.
      lost_after_s: A launcher that has been silent for this long is lost.
      own: Index of the node of this launcher.
      is_elastic: Whether nodes may be lost, and arrive while the job runs. It never counts as
        started, so that a lost node may return.
    """

    hosts: Sequence[str]
    attempt: str
    facts: dict[str, str]
    clock: Callable[[], float] = time.monotonic
    lost_after_s: float = Timeouts().lost_after_s
    own: int = 0
    is_elastic: bool = False
    _nodes: dict[int, _Node] = field(default_factory=dict)
    _duplicates: dict[int, _Node] = field(default_factory=dict)
    _started: bool = False
    _error: tuple[int, str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def update(self, report: Report) -> View:
        """Stores a report and returns the current view.

        Raises:
          ValueError: The job has no node with this index.
        """
        with self._lock:
            if not 0 <= report.index < len(self.hosts):
                raise ValueError(f"index {report.index} of {len(self.hosts)} nodes")
            if report.attempt not in (None, self.attempt):
                return self._view("other", None)
            known = self._nodes.get(report.index)
            if known is not None and known.report.uid == report.uid:
                self._take(report)
            elif self._is_duplicate(report) and self._error:
                self._duplicates[report.index].knows_outcome = True
            elif report.left or self._is_ending(known):
                return self._view("other", None)
            elif (wrong := self._difference(report)) is not None:
                # A stray launcher of another job must not end a job that is already running.
                if not self._started:
                    self._fail(2, wrong)
                return self._view("other", (2, wrong))
            elif self._error:
                return self._view("other", self._error)
            else:
                self._admit(report, known)
            self._find_lost()
            return self._view(self._phase(report), self._error, report.index)

    def fail(self, code: int, text: str) -> None:
        """Ends the attempt on all nodes. The first reason is kept."""
        with self._lock:
            self._fail(code, text)

    @property
    def has_started(self) -> bool:
        """Whether all nodes have arrived."""
        return self._started

    def all_nodes_know(self) -> bool:
        """Whether every node that has arrived knows the outcome."""
        with self._lock:
            others = [node for index, node in self._nodes.items() if index != self.own]
            others += self._duplicates.values()
            if not self._error and any(node.report.code is None for node in others):
                return True  # there is no outcome yet
            return all(
                node.knows_outcome or self._silent(node, self.lost_after_s) for node in others
            )

    def _difference(self, report: Report) -> str | None:
        """Describes the first setting in which a launcher differs from node 0."""
        for name in self.facts | report.facts:
            theirs, ours = (facts.get(name, "not given") for facts in (report.facts, self.facts))
            if theirs != ours:
                return (
                    f"node {report.index} ({self.hosts[report.index]}, on {report.hostname}) was "
                    f"started with {name} {theirs}, and node 0 with {name} {ours}. "
                    "Start all nodes with the same settings"
                )
        return None

    def _admit(self, report: Report, known: _Node | None) -> None:
        """Adds a new launcher to the attempt, or ends the attempt if its index is taken."""
        ended = self.is_elastic and known is not None and known.report.code is not None
        if known is None or ended or (not self._started and self._silent(known, _REPLACED_AFTER_S)):
            self._duplicates.pop(report.index, None)
            self._take(report)
        elif self._started:
            self._fail_duplicate(known.report, report)
        else:
            # The next report of the first launcher, if any, shows that it is still alive (_take).
            self._duplicates[report.index] = _Node(report, self.clock())

    def _phase(self, report: Report) -> Literal["waiting", "running", "other"]:
        if not self.is_elastic:
            return "running" if self._started else "waiting"
        known = self._nodes.get(report.index)
        return "running" if known is not None and known.report.uid == report.uid else "other"

    def _is_duplicate(self, report: Report) -> bool:
        duplicate = self._duplicates.get(report.index)
        return duplicate is not None and duplicate.report.uid == report.uid

    def _is_ending(self, known: _Node | None) -> bool:
        """Whether a restarted node should wait for the next attempt.

        It should not if the settings are wrong: the next attempt would fail in the same way.
        """
        if self._error:
            return self._error[0] != 2
        if self.is_elastic:
            return False
        return known is not None and known.report.code is not None

    def _take(self, report: Report) -> None:
        if report.left:
            del self._nodes[report.index]
            return
        node = self._nodes.setdefault(report.index, _Node(report, 0.0))
        node.report, node.seen_s = report, self.clock()
        duplicate = self._duplicates.get(report.index)
        if duplicate is not None and not self._error:
            if self._silent(duplicate, _REPLACED_AFTER_S):
                del self._duplicates[report.index]
            elif not self.is_elastic:
                self._fail_duplicate(report, duplicate.report)
        self._started = self._started or (
            not self.is_elastic
            and len(self._nodes) == len(self.hosts)
            and not self._error
            and not self._duplicates
        )

    def _silent(self, node: _Node, longer_than_s: float) -> bool:
        return self.clock() - node.seen_s > longer_than_s

    def _find_lost(self) -> None:
        for index, node in list(self._nodes.items()):
            if node.report.code is not None or not self._silent(node, self.lost_after_s):
                continue
            if self._started:
                self._fail(
                    76,
                    f"node {index} ({self.hosts[index]}, on {node.report.hostname}) was lost: its "
                    f"launcher has not answered for {self.lost_after_s:g} s. Start all nodes again",
                )
            else:
                del self._nodes[index]  # it may return

    def _fail_duplicate(self, first: Report, second: Report) -> None:
        self._fail(
            76,
            f"two launchers have index {first.index} ({self.hosts[first.index]}): one on "
            f"{first.hostname}, one on {second.hostname}. Either two nodes were given the same "
            "index, or a node was restarted while the others continued. Start all nodes again, "
            "each with its own index",
        )

    def _fail(self, code: int, text: str) -> None:
        self._error = self._error or (code, text)

    def _view(
        self,
        phase: Literal["waiting", "running", "other"],
        error: tuple[int, str] | None,
        told: int | None = None,
    ) -> View:
        reports = [node.report if (node := self._nodes.get(i)) else None for i in self._indexes]
        codes = [report.code if report else None for report in reports]
        # An elastic job may end without some of its nodes.
        ended = codes if not self.is_elastic else [r.code for r in reports if r is not None]
        if told in self._nodes and (error or None not in ended):
            self._nodes[told].knows_outcome = True
        return View(
            attempt=self.attempt,
            phase=phase,
            missing=[index for index in self._indexes if index not in self._nodes],
            codes=codes,
            failures=[report.failure if report else None for report in reports],
            error=error[1] if error else None,
            error_code=error[0] if error else 0,
        )

    @property
    def _indexes(self) -> range:
        return range(len(self.hosts))
