"""Writes checkpoints in the background while training continues."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointError, CheckpointStore

# Delay between attempts after a failed write. A full disk may be freed, a server may come back.
_FIRST_RETRY_S = 1.0
_MAX_RETRY_S = 60.0
# If a save waits longer than this for the previous one, saves are more frequent than the storage
# can write them.
_SLOW_S = 0.5


class BackgroundWriter:
    """Writes snapshots to a store from a background thread, one at a time, in the order of steps.

    A failed write is reported and retried with increasing delays while training continues. In the
    meantime, a new snapshot replaces the pending one, unless that one is the best. At most two
    snapshots are therefore pending.

    Args:
      store: The checkpoint store.
      report: Called with a message about each failure, from the background thread.
      before_save: Called before each save. It may raise OSError, which counts as a failed write.
    """

    def __init__(
        self,
        store: CheckpointStore,
        report: Callable[[str], None],
        before_save: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._report = report
        self._before_save = before_save
        self._changed = threading.Condition()
        self._pending: list[tuple[Snapshot, int | None]] = []
        self._failure: CheckpointError | None = None
        self._closing = self._finishing = self._reported_slow = False
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def submit(self, snapshot: Snapshot, best_step: int | None) -> None:
        """Queues a snapshot for writing. Blocks while the previous one is being written.

        Args:
          snapshot: The snapshot to write.
          best_step: Step of the best checkpoint so far on validation, which is kept.
        """
        start_s = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self._failure)
            self._pending = [p for p in self._pending if p[0].step == best_step]
            self._pending.append((snapshot, best_step))
            self._changed.notify_all()
        waited_s = time.monotonic() - start_s
        if waited_s > _SLOW_S and not self._reported_slow:
            self._reported_slow = True
            self._report(
                f"training waited {waited_s:.1f} s for the checkpoint before step {snapshot.step} "
                "to be written: checkpoints are more frequent than this storage can write them. "
                "Increase checkpoint.every_steps, every_s or every_epochs"
            )

    def finish(self, give_up_after_s: float) -> None:
        """Waits until all queued snapshots are on disk.

        Args:
          give_up_after_s: How long to retry after a failed write, in seconds. A write that is only
            slow has no time limit.

        Raises:
          CheckpointError: Writing still fails after that time.
        """
        give_up_s = time.monotonic() + give_up_after_s
        with self._changed:
            self._finishing = True
            while self._pending:
                if self._failure is not None and time.monotonic() >= give_up_s:
                    raise CheckpointError(
                        f"{self._failure}. The last checkpoint of the run is not saved; earlier "
                        "ones are intact. Free some space or allow writing, then run the same "
                        "command again"
                    )
                self._changed.wait(0.1)
            self._finishing = False

    def close(self) -> None:
        """Ends the thread after it has written the queue, or at once if writing fails."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        delay_s = 0.0
        while True:
            self._sleep(delay_s)
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._pending)
                if self._closing and (self._failure or not self._pending):
                    return
                snapshot, best_step = self._pending[0]
            failure = self._write(snapshot, best_step)
            with self._changed:
                if failure is None:
                    self._pending = [p for p in self._pending if p[0] is not snapshot]
                    delay_s = 0.0
                else:
                    delay_s = min(max(2 * delay_s, _FIRST_RETRY_S), _MAX_RETRY_S)
                    self._try_report(f"{failure}. Retrying in {delay_s:.0f} s; training continues")
                if failure is None and self._failure is not None:
                    self._try_report(f"the checkpoint of step {snapshot.step} is now written")
                self._failure = failure
                self._changed.notify_all()

    def _sleep(self, delay_s: float) -> None:
        """Sleeps for `delay_s`, or shorter while `finish` waits; returns at once when closing."""
        start_s = time.monotonic()
        with self._changed:
            while not self._closing:
                left_s = (min(delay_s, _FIRST_RETRY_S) if self._finishing else delay_s) - (
                    time.monotonic() - start_s
                )
                if left_s <= 0:
                    return
                self._changed.wait(min(left_s, 0.1))

    def _write(self, snapshot: Snapshot, best_step: int | None) -> CheckpointError | None:
        try:
            self._before_save()
            self._store.save(snapshot)
        except CheckpointError as error:
            return error
        except Exception as error:  # if the thread ended here, the run would wait for it forever
            return CheckpointError(f"cannot write the checkpoint of step {snapshot.step}: {error}")
        try:
            self._store.prune(best_step)
        except OSError as error:
            self._try_report(f"cannot delete an old checkpoint: {error}")
        return None

    def _try_report(self, text: str) -> None:
        # Output may fail, for example if the terminal is closed. The thread must continue.
        with contextlib.suppress(OSError):
            self._report(text)
