"""What node 0's launcher knows of the job's nodes.

Every launcher tells what it knows of its node (a Report), about once a second, and is answered with
what is known of the job (a View). Only launchers that know the job's token come so far.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.launch.reports import Report, View

# A launcher that has not been heard for so long is gone. With the time that its processes' peers
# get to end (launcher.py), the job is over within 30 s.
LOST_AFTER_S = 15.0
# A launcher speaks every second; one that is silent for so long before the start was replaced.
_REPLACED_AFTER_S = 3.0


@dataclass
class _Node:
    report: Report
    seen_s: float
    knows_end: bool = False


@dataclass
class Registry:
    """All nodes' reports, kept by node 0.

    Args:
      hosts: Of the nodes, by index; for messages.
      attempt: Drawn anew for each registry.
      facts: Node 0's, which all others' must equal.
      clock: Monotonic seconds.
    """

    hosts: Sequence[str]
    attempt: str
    facts: dict[str, str]
    clock: Callable[[], float] = time.monotonic
    _nodes: dict[int, _Node] = field(default_factory=dict)
    _rivals: dict[int, _Node] = field(default_factory=dict)
    _started: bool = False
    _error: tuple[int, str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def update(self, report: Report) -> View:
        """Takes a report and returns what is known; from many threads.

        Raises:
          ValueError: The job has no such node.
        """
        with self._lock:
            if not 0 <= report.index < len(self.hosts):
                raise ValueError(f"index {report.index} of {len(self.hosts)} nodes")
            if report.attempt not in (None, self.attempt):
                return self._view("other", None)
            known = self._nodes.get(report.index)
            if known is not None and known.report.uid == report.uid:
                self._take(report)
            elif self._is_rival(report) and self._error:
                self._rivals[report.index].knows_end = True
            elif self._is_ending(known):
                return self._view("other", None)
            elif (wrong := self._difference(report)) is not None:
                # Once the job runs, a stray launcher of another job is no reason to end it.
                if not self._started:
                    self._fail(2, wrong)
                return self._view("other", (2, wrong))
            elif self._error:
                return self._view("other", self._error)
            else:
                self._admit(report, known)
            self._find_lost()
            return self._view("running" if self._started else "waiting", self._error, report.index)

    def fail(self, code: int, text: str) -> None:
        """Ends the attempt for all; the first reason stands."""
        with self._lock:
            self._fail(code, text)

    @property
    def has_started(self) -> bool:
        """Whether all nodes have come."""
        return self._started

    def everyone_knows(self) -> bool:
        """Whether each node that came has heard how it ended."""
        with self._lock:
            others = [node for index, node in self._nodes.items() if index]
            others += self._rivals.values()
            if not self._error and any(node.report.code is None for node in others):
                return True  # nothing has ended that they could hear of
            return all(node.knows_end or self._silent(node, LOST_AFTER_S) for node in others)

    def _difference(self, report: Report) -> str | None:
        """Says which fact of a launcher is not node 0's."""
        for name in self.facts | report.facts:
            theirs, ours = (facts.get(name, "not given") for facts in (report.facts, self.facts))
            if theirs != ours:
                return (
                    f"node {report.index} ({self.hosts[report.index]}, on {report.hostname}) was "
                    f"started with {name} {theirs}, and node 0 with {name} {ours}. "
                    "Start all nodes with the same"
                )
        return None

    def _admit(self, report: Report, known: _Node | None) -> None:
        """Makes a launcher that is not known yet part of the attempt, or ends the attempt."""
        if known is None or (not self._started and self._silent(known, _REPLACED_AFTER_S)):
            self._rivals.pop(report.index, None)
            self._take(report)
        elif self._started:
            self._fail_double(known.report, report)
        else:
            # Whether the first one still lives shows when it speaks again, in _take.
            self._rivals[report.index] = _Node(report, self.clock())

    def _is_rival(self, report: Report) -> bool:
        rival = self._rivals.get(report.index)
        return rival is not None and rival.report.uid == report.uid

    def _is_ending(self, known: _Node | None) -> bool:
        """Whether a node that was restarted should wait for the next attempt.

        Not where settings are wrong: the next attempt would end the same way.
        """
        if self._error:
            return self._error[0] != 2
        return known is not None and known.report.code is not None

    def _take(self, report: Report) -> None:
        node = self._nodes.setdefault(report.index, _Node(report, 0.0))
        node.report, node.seen_s = report, self.clock()
        rival = self._rivals.get(report.index)
        if rival is not None and not self._error:
            if self._silent(rival, _REPLACED_AFTER_S):
                del self._rivals[report.index]
            else:
                self._fail_double(report, rival.report)
        self._started = self._started or (
            len(self._nodes) == len(self.hosts) and not self._error and not self._rivals
        )

    def _silent(self, node: _Node, longer_than_s: float) -> bool:
        return self.clock() - node.seen_s > longer_than_s

    def _find_lost(self) -> None:
        for index, node in list(self._nodes.items()):
            if node.report.code is not None or not self._silent(node, LOST_AFTER_S):
                continue
            if self._started:
                self._fail(
                    76,
                    f"node {index} ({self.hosts[index]}, on {node.report.hostname}) was lost: its "
                    f"launcher has not answered for {LOST_AFTER_S:g} s. Start all nodes again",
                )
            else:
                del self._nodes[index]  # it may come again

    def _fail_double(self, first: Report, second: Report) -> None:
        self._fail(
            76,
            f"two launchers came with index {first.index} ({self.hosts[first.index]}): one on "
            f"{first.hostname}, one on {second.hostname}. Either two nodes were given one index, "
            "or a node was restarted while the others went on. Start all nodes again, each with "
            "an index of its own",
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
        if told in self._nodes and (error or None not in codes):
            self._nodes[told].knows_end = True
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
