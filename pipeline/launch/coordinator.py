"""The group of an elastic job in the launcher of node 0, for several threads and nodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.launch.group import Group
from pipeline.launch.membership_server import held_s
from pipeline.launch.rules import Rules
from pipeline.launch.store import GenerationStores
from pipeline.runtimes.worker_reports import GroupView, NodeReport, WorkerStatus

# A launcher whose connection was closed has this long to open another one.
RECONNECT_S = 2.0


@dataclass
class _Node:
    """The launcher of another node, as it was last heard."""

    launcher: str
    sequence: int
    heard_s: float
    closed_s: float | None = None
    is_lost: bool = False


class Coordinator:
    """Decides on the generations of an elastic job. It is thread-safe.

    Args:
      rules: The options of the job.
      attempt: Identifier of this attempt of the job. It changes if this launcher is restarted.
      clock: Monotonic seconds.

    Attributes:
      stores: The key-value store of the newest generation, with which Horovod connects it.
    """

    def __init__(
        self, rules: Rules, attempt: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stores = GenerationStores(len(rules.hosts) * rules.slots)
        self._rules, self._attempt, self._clock = rules, attempt, clock
        self._group = Group(rules, clock)
        self._nodes: dict[int, _Node] = {}
        self._former: set[str] = set()
        self._advanced_s = clock()
        self._changed = threading.Condition()

    @property
    def view(self) -> GroupView:
        return self._group.view

    def update(self, node: int, statuses: Sequence[WorkerStatus]) -> GroupView:
        """Takes the state of all workers of a node."""
        return self._do(lambda: self._group.update(node, statuses))

    def knows_end(self, worker: str) -> bool:
        """Whether the end of a worker of this node is known: `update` takes effect at once."""
        return True

    def exchange(self, report: NodeReport) -> GroupView | None:
        """Takes the report of another node. Waits for a view that is newer than the node has.

        Returns:
          The view; None if another launcher has taken the place of this one, or of node 0.

        Raises:
          ValueError: The job has no node with this index.
        """
        if not 0 < report.index < len(self._rules.hosts):
            raise ValueError(f"index {report.index} of {len(self._rules.hosts)} nodes")
        with self._changed:
            node = self._nodes.get(report.index)
            if report.attempt != self._attempt or report.launcher in self._former:
                return None
            if node is None or node.launcher != report.launcher:
                if node is not None:
                    self._former.add(node.launcher)
                node = self._nodes[report.index] = _Node(report.launcher, -1, 0.0)
            node.heard_s, node.closed_s, node.is_lost = self._clock(), None, False
            is_new, node.sequence = report.sequence > node.sequence, report.sequence
            if is_new:
                self._do(lambda: self._group.update(report.index, report.workers))
        return self.wait(report.version, held_s(self._rules.heartbeat_timeout_s))

    def note_closed(self, launcher: str) -> None:
        """Takes that a connection of a launcher was closed: it may have ended."""
        with self._changed:
            for node in self._nodes.values():
                if node.launcher == launcher:
                    node.closed_s = self._clock()

    def stop(self, reason: str) -> None:
        """Asks all workers to save and stop."""
        self._do(lambda: self._group.stop(reason))

    def advance(self) -> GroupView:
        """Makes the changes that are due. Call it regularly."""

        def change() -> None:
            self._lose_silent_nodes()
            self._group.advance()

        return self._do(change)

    def wait(self, version: int, timeout_s: float) -> GroupView:
        """Waits for a view that is newer than `version`, but at most `timeout_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._group.view.version > version, timeout_s)
            return self._group.view

    def close(self) -> None:
        """Does nothing: the launcher of node 0 keeps the group until all nodes have ended."""

    def _do(self, change: Callable[[], None]) -> GroupView:
        with self._changed:
            before = self._group.view
            change()
            view = self._group.view
            if view is not before:
                self.stores.open(view.generation, view.broken)
                self._changed.notify_all()
            return view

    def _lose_silent_nodes(self) -> None:
        now_s, before_s = self._clock(), self._advanced_s
        self._advanced_s = now_s
        limit_s = self._rules.heartbeat_timeout_s
        for index, node in self._nodes.items():
            if node.is_lost:
                continue
            if now_s - before_s > limit_s / 2:
                node.heard_s = now_s  # this launcher itself was stopped, and has heard nobody
            elif now_s - node.heard_s > limit_s:
                self._lose_node(index, f"was lost: its node had not answered for {limit_s:g} s")
            elif node.closed_s is not None and now_s - node.closed_s > RECONNECT_S:
                self._lose_node(index, "was lost: the launcher of its node has ended")

    def _lose_node(self, index: int, reason: str) -> None:
        self._nodes[index].is_lost = True  # it may return, but its workers may not
        self._group.lose_node(index, reason)


class NodeLink:
    """A connection of another node's launcher to the group."""

    def __init__(self, group: Coordinator) -> None:
        self._group = group
        self._launcher = ""

    def exchange(self, report: NodeReport) -> GroupView | None:
        """See `Coordinator.exchange`."""
        self._launcher = report.launcher
        return self._group.exchange(report)

    def close(self) -> None:
        """Takes that the connection was closed."""
        if self._launcher:
            self._group.note_closed(self._launcher)
