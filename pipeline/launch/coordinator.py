"""The group of an elastic job in the launcher of the coordinator, for several threads and nodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pipeline.launch.group import Group
from pipeline.launch.membership_server import held_s
from pipeline.launch.rules import Rules
from pipeline.launch.store import GenerationStores
from pipeline.runtimes.worker_reports import GroupView, NodeReport, WorkerStatus

# A launcher whose connection was closed has this long to open another one.
RECONNECT_S = 2.0
# A launcher that does not answer within this time is passed over when the others meet.
ASK_S = 1.5


class ReplacedError(Exception):
    """Another launcher has taken the place of the one that sent a report."""


@dataclass
class _Node:
    """The launcher of a node, as it was last heard."""

    launcher: str
    sequence: int
    heard_s: float
    closed_s: float | None = None
    is_lost: bool = False


class Coordinator:
    """Decides on the generations of an elastic job. It is thread-safe.

    Args:
      rules: The options of the job.
      attempt: Identifier of this attempt of the job.
      clock: Monotonic seconds.
      own: Index of this launcher's node.

    Attributes:
      stores: The key-value store of the newest generation, with which Horovod connects it.
    """

    def __init__(
        self,
        rules: Rules,
        attempt: str,
        clock: Callable[[], float] = time.monotonic,
        own: int = 0,
    ) -> None:
        self.stores = GenerationStores(len(rules.hosts) * rules.slots)
        self._rules, self._attempt, self._clock, self._own = rules, attempt, clock, own
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

    def continue_from(self, view: GroupView, lost: Collection[int]) -> None:
        """Continues the group of a coordinator that is gone.

        Args:
          view: The group as this node knew it.
          lost: Nodes whose workers do not continue. The others have a little more than the
            heartbeat timeout to come: they may be asking when this launcher becomes coordinator.
        """

        def change() -> None:
            self._group.continue_from(view)
            for index in range(len(self._rules.hosts)):
                self._nodes[index] = _Node("", -1, self._clock() + ASK_S)
                if index in lost:
                    self._lose_node(index, "was lost: the launcher of its node does not answer")

        self._do(change)

    def exchange(self, report: NodeReport, is_local: bool = False) -> GroupView | None:
        """Takes the report of a node. Waits for a view that is newer than the node has.

        Args:
          report: The report.
          is_local: Whether it is about the node of this launcher.

        Returns:
          The view; None if the report belongs to another attempt.

        Raises:
          ReplacedError: Another launcher has taken the place of the one that sent the report.
          ValueError: The job has no node with this index.
        """
        if not 0 <= report.index < len(self._rules.hosts):
            raise ValueError(f"index {report.index} of {len(self._rules.hosts)} nodes")
        if (report.index == self._own) is not is_local:
            raise ReplacedError
        with self._changed:
            node = self._nodes.get(report.index)
            if report.attempt != self._attempt:
                return None
            if report.launcher in self._former:
                raise ReplacedError
            self._group.note_generation(report.generation)
            if node is None or node.launcher != report.launcher:
                if node is not None and node.launcher:
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

    def stop(self, reason: str) -> bool:
        """Asks all workers to save and stop. Returns True: this launcher decides on the group."""
        self._do(lambda: self._group.stop(reason))
        return True

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
        """Does nothing: the coordinator keeps the group until all nodes have ended."""

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
            if node.is_lost or index == self._own:
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
    """A connection of a launcher to the group in this process.

    Args:
      find_group: Returns the group; None if this launcher is not the coordinator.
      is_local: Whether this launcher itself uses the connection.
    """

    def __init__(self, find_group: Callable[[], Coordinator | None], is_local: bool) -> None:
        self._find_group, self._is_local = find_group, is_local
        self._launcher = ""

    def exchange(self, report: NodeReport) -> GroupView | None:
        """See `Coordinator.exchange`. Returns None, too, if this is not the coordinator."""
        self._launcher = report.launcher
        group = self._find_group()
        return None if group is None else group.exchange(report, self._is_local)

    def close(self) -> None:
        """Takes that the connection was closed."""
        group = self._find_group()
        if group is not None and self._launcher:
            group.note_closed(self._launcher)
