"""How a launcher divides the time within which a failed job has ended on all nodes."""

from __future__ import annotations

from dataclasses import dataclass

# Launchers report about once per second: a third of half of this time must not look like silence.
MIN_END_WITHIN_S = 6.0


@dataclass(frozen=True)
class Timeouts:
    """Waiting times after a failure. All nodes of a job use the same.

    After a process has failed, the others have `own_end_s` to notice it and exit with 76. Then they
    get SIGTERM, and SIGKILL `kill_after_s` later. If a node was lost, `lost_after_s` have already
    passed, so that the others have only `own_end_after_loss_s`. Each sum leaves a sixth of
    `end_within_s` for reports between the nodes.

    Attributes:
      end_within_s: Seconds from a failure until all processes of the job have ended.
    """

    end_within_s: float = 30.0

    @property
    def own_end_s(self) -> float:
        """Time that the other processes have to end after a process has failed."""
        return self.end_within_s * 2 / 3

    @property
    def kill_after_s(self) -> float:
        """Time from SIGTERM to SIGKILL."""
        return self.end_within_s / 6

    @property
    def lost_after_s(self) -> float:
        """A node whose launcher has been silent for this long is lost."""
        return self.end_within_s / 2

    @property
    def own_end_after_loss_s(self) -> float:
        """Time that the processes have to end after a node was lost."""
        return self.end_within_s / 6
