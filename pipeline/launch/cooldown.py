"""When a slot whose worker failed may start the next one (Horovod calls it blacklist cooldown)."""

from __future__ import annotations

FIRST_S, LONGEST_S = 10.0, 300.0
# A worker that has run for this long without a failure makes the earlier ones forgotten.
FORGET_AFTER_S = 600.0


class Cooldown:
    """The failures of one slot.

    Args:
      first_s: The first delay. It doubles with each failure, up to LONGEST_S.
    """

    def __init__(self, first_s: float = FIRST_S) -> None:
        self._first_s = first_s
        self._delay_s = 0.0
        self._failed_s = float("-inf")

    def fail(self, now_s: float, *, at_once: bool) -> float:
        """Takes a failure and returns the seconds until the next start.

        Args:
          now_s: Time of the failure on a monotonic clock.
          at_once: Whether the first failure allows another start without a delay: the worker was
            killed, and the machine may be fine. It is not after an exception, or on request.
        """
        if now_s - self._failed_s > FORGET_AFTER_S:
            self._delay_s = 0.0
            first = at_once
        else:
            first = False
        self._failed_s = now_s
        if first:
            return 0.0
        self._delay_s = min(max(self._first_s, 2 * self._delay_s), LONGEST_S)
        return self._delay_s
