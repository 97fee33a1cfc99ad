"""The group of an elastic job in the launcher of node 0, for several threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from pipeline.launch.group import Group, Rules
from pipeline.launch.store import GenerationStores
from pipeline.runtimes.worker_reports import GroupView, WorkerStatus


class Coordinator:
    """Decides on the generations of an elastic job.

    Args:
      rules: The options of the job.
      clock: Monotonic seconds.

    Attributes:
      stores: The key-value store of the newest generation, with which Horovod connects it.
    """

    def __init__(self, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self.stores = GenerationStores(len(rules.hosts) * rules.slots)
        self._group = Group(rules, clock)
        self._changed = threading.Condition()

    @property
    def view(self) -> GroupView:
        return self._group.view

    def update(self, node: int, statuses: Sequence[WorkerStatus]) -> GroupView:
        """Takes the state of all workers of a node."""
        return self._do(lambda: self._group.update(node, statuses))

    def stop(self, reason: str) -> None:
        """Asks all workers to save and stop."""
        self._do(lambda: self._group.stop(reason))

    def advance(self) -> GroupView:
        """Makes the changes that are due. Call it regularly."""
        return self._do(self._group.advance)

    def wait(self, version: int, timeout_s: float) -> GroupView:
        """Waits for a view that is newer than `version`, but at most `timeout_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._group.view.version > version, timeout_s)
            return self._group.view

    def _do(self, change: Callable[[], None]) -> GroupView:
        with self._changed:
            before = self._group.view
            change()
            view = self._group.view
            if view is not before:
                self.stores.open(view.generation, view.broken)
                self._changed.notify_all()
            return view
