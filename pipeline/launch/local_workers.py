"""The workers of this node, as their launcher knows them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.runtimes.worker_reports import WorkerEnd, WorkerReport, WorkerStatus


@dataclass
class _Entry:
    status: WorkerStatus
    heard_s: float  # when it was started, if it has never reported
    has_reported: bool = False


class LocalWorkers:
    """The last report of each worker of this node, and how it ended. It is thread-safe.

    Args:
      clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def add(self, worker: str, slot: int) -> None:
        """Adds a worker that has been started."""
        with self._lock:
            self._entries[worker] = _Entry(
                WorkerStatus(worker, slot, WorkerReport()), self._clock()
            )

    def take(self, worker: str, report: WorkerReport) -> bool:
        """Takes the report of a worker. Returns False if there is no such worker, or it is dead."""
        with self._lock:
            entry = self._entries.get(worker)
            if entry is None or entry.status.end is not None:
                return False
            entry.heard_s, entry.has_reported = self._clock(), True
            if report.sequence >= entry.status.report.sequence:
                entry.status = replace(entry.status, report=replace(report, version=0))
            return True

    def end(self, worker: str, end: WorkerEnd) -> None:
        """Takes how a worker ended. The first end counts."""
        with self._lock:
            entry = self._entries.get(worker)
            if entry is not None and entry.status.end is None:
                entry.status = replace(entry.status, end=end)

    def forget(self, worker: str) -> None:
        """Removes a worker whose end the coordinator knows."""
        with self._lock:
            self._entries.pop(worker, None)

    def has_reported(self, worker: str) -> bool:
        """Whether a worker has ever reported."""
        with self._lock:
            entry = self._entries.get(worker)
            return entry is not None and entry.has_reported

    def silent(
        self, timeout_s: float, preparing_timeout_s: float, starting_timeout_s: float
    ) -> list[tuple[str, float]]:
        """Workers that have been silent for too long, and how long each may be.

        Args:
          timeout_s: How long a worker may be silent.
          preparing_timeout_s: How long it may be silent while it prepares.
          starting_timeout_s: How long it may take to report for the first time.
        """
        now_s = self._clock()
        found = []
        with self._lock:
            for worker, entry in self._entries.items():
                is_preparing = entry.status.report.state == "preparing"
                limit_s = preparing_timeout_s if is_preparing else timeout_s
                limit_s = limit_s if entry.has_reported else starting_timeout_s
                if entry.status.end is None and now_s - entry.heard_s > limit_s:
                    found.append((worker, limit_s))
        return found

    def hear_all(self) -> None:
        """Counts all workers as heard now."""
        with self._lock:
            for entry in self._entries.values():
                entry.heard_s = self._clock()

    def statuses(self) -> tuple[WorkerStatus, ...]:
        """The state of all workers, by their order of start."""
        with self._lock:
            return tuple(entry.status for entry in self._entries.values())

    def status(self, worker: str) -> WorkerStatus | None:
        """The state of a worker."""
        with self._lock:
            entry = self._entries.get(worker)
            return None if entry is None else entry.status
