"""Writes snapshots while training goes on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointError, CheckpointStore

# Between tries to write where writing fails: a full disk may be cleared, a server may come back.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
# A save that has to wait this long for the one before it is due more often than it can be written.
_SLOW_S = 0.5


class BackgroundWriter:
    """Writes snapshots to a store in a thread of its own, one at a time, in the order of steps.

    Where writing fails it is told, and tried again after growing pauses, while training goes on.
    Snapshots that come meanwhile replace the one that waits, but for the best: at most two wait.

    Args:
      store: Where they go.
      report: Is told of failures; called in the thread.
      before_save: Called before each; may raise OSError, which counts as a failure to write.
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
        self._waiting: list[tuple[Snapshot, int | None]] = []
        self._failure: CheckpointError | None = None
        self._closing = self._hurried = self._said_slow = False
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def submit(self, snapshot: Snapshot, best_step: int | None) -> None:
        """Hands a snapshot over; waits while the one before it is being written.

        Args:
          best_step: The checkpoint that was best on validation so far, which is kept.
        """
        start_s = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._failure)
            self._waiting = [w for w in self._waiting if w[0].step == best_step]
            self._waiting.append((snapshot, best_step))
            self._changed.notify_all()
        waited_s = time.monotonic() - start_s
        if waited_s > _SLOW_S and not self._said_slow:
            self._said_slow = True
            self._report(
                f"training waited {waited_s:.1f} s for the checkpoint before step {snapshot.step} "
                "to be written: checkpoints are due more often than this storage can write them. "
                "Set checkpoint.every_steps, every_s or every_epochs to more"
            )

    def finish(self, give_up_after_s: float) -> None:
        """Returns when all that was handed over is on disk.

        Args:
          give_up_after_s: How long to try on where writing fails; one that is merely slow is
            waited for.

        Raises:
          CheckpointError: It still fails.
        """
        give_up_s = time.monotonic() + give_up_after_s
        with self._changed:
            self._hurried = True
            while self._waiting:
                if self._failure is not None and time.monotonic() >= give_up_s:
                    raise CheckpointError(
                        f"{self._failure}. The run's last checkpoint is not saved; earlier ones "
                        "are untouched. Make room or permit writing, then give the same command "
                        "again"
                    )
                self._changed.wait(0.1)
            self._hurried = False

    def close(self) -> None:
        """Ends the thread when what waits is written, or at once where writing fails."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        pause_s = 0.0
        while True:
            self._pause(pause_s)
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting)
                if self._closing and (self._failure or not self._waiting):
                    return
                snapshot, best_step = self._waiting[0]
            failure = self._write(snapshot, best_step)
            with self._changed:
                if failure is None:
                    self._waiting = [w for w in self._waiting if w[0] is not snapshot]
                    pause_s = 0.0
                else:
                    pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                    self._tell(f"{failure}. Trying again in {pause_s:.0f} s; training goes on")
                if failure is None and self._failure is not None:
                    self._tell(f"the checkpoint of step {snapshot.step} is written now")
                self._failure = failure
                self._changed.notify_all()

    def _pause(self, pause_s: float) -> None:
        start_s = time.monotonic()
        with self._changed:
            while not self._closing:
                left_s = (min(pause_s, _FIRST_PAUSE_S) if self._hurried else pause_s) - (
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
        except Exception as error:  # a thread that ended here would leave the run waiting for it
            return CheckpointError(f"cannot write the checkpoint of step {snapshot.step}: {error}")
        try:
            self._store.prune(best_step)
        except OSError as error:
            self._tell(f"an old checkpoint cannot be deleted: {error}")
        return None

    def _tell(self, text: str) -> None:
        # Whoever reads it may have gone; the thread must not go with it.
        with contextlib.suppress(OSError):
            self._report(text)
