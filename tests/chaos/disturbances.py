"""Disturbances of an elastic job, each at its moment."""

import random
import signal
import time
from dataclasses import dataclass

from tests.chaos.elastic_job import LIMIT_S

# Those that a job can meet once, and those that it can meet at any time.
FIRST = ("kill during the start", "kill during compilation")
# The exit code of the job after those that end it. The same command then continues the run.
ENDING = {"kill of all": 76, "stop of the job": 75, "kill of the launcher": -signal.SIGKILL}
LAST = ("kill at the end", *ENDING)
ANY_TIME = (
    "kill of a worker",
    "kill of the chief",
    "kill of two at once",
    "stopped, and continued later",
    "stopped for a moment",
    "stop of the launcher",
    "asked to leave",
    "kill while a group forms",
    "kill during a checkpoint",
    "kill during an evaluation",
)
JOIN = "join"


@dataclass
class Outcome:
    """What followed a disturbance.

    Attributes:
      kind: One of the above.
      to_next_step_s: From the signal to the line of the chief that training continues; None if
        nobody had to be missed, or training had not begun or was over.
      regrouping_s: The same from when the survivors noticed, as the chief printed it.
    """

    kind: str
    to_next_step_s: float | None = None
    regrouping_s: float | None = None

    def take(self, continuation, signal_s):
        """Takes the line of the chief, unless it had to wait for other workers."""
        if continuation.waited:
            return
        self.to_next_step_s = continuation.seen_s - signal_s
        self.regrouping_s = continuation.took_s


class Disturber:
    """Disturbs one job.

    Args:
      job: The job.
      chance: Source of the random moments and victims.
      steps: Length of the run.
      timeout_s: The job's --heartbeat-timeout-s.

    Attributes:
      outcomes: Of each disturbance, and of each join.
      exit_code: With what the job is to end if it does not complete the run; 0 if it must.
    """

    def __init__(self, job, chance: random.Random, steps, timeout_s):
        self._job, self._chance, self._steps, self._timeout_s = job, chance, steps, timeout_s
        self.outcomes, self.exit_code = [], 0
        self._read, self._open = 0, []

    def disturb(self, kind):
        """Disturbs the job once. Returns False if it has ended before."""
        job = self._job
        if not self._wait_for_moment(kind):
            return False
        self._take_joins()
        before, number, processes = len(job.continuations), signal.SIGKILL, self._victims(kind)
        if not processes:
            return True
        if kind in ("asked to leave", "stop of the job"):
            number = signal.SIGTERM
        elif kind.startswith("stop"):
            number = signal.SIGSTOP
        print(f"    {kind}: {len(processes)} of {len(job.members)} members", flush=True)
        signal_s = job.signal(processes, number)
        outcome = Outcome(kind)
        self.outcomes.append(outcome)
        if kind in (*FIRST, *LAST):
            self._open.append((outcome, before, signal_s))
            self.exit_code = ENDING.get(kind, 0)
            return True
        if kind in ("stopped for a moment", "stop of the launcher"):
            continues = job.pause(self._timeout_s * (0.25 if kind.startswith("stopped") else 1.5))
            job.signal(processes, signal.SIGCONT)
            return continues
        # A newcomer that is killed before it has joined is not mentioned.
        may_be_any = kind == "kill while a group forms"
        after = lambda: [c for c in job.continuations[before:] if c.lost or may_be_any]  # noqa: E731
        continues = job.wait(after, f"after a {kind}")
        if continues:
            outcome.take(after()[0], signal_s)
        if number == signal.SIGSTOP:
            # A process that comes back after the others have gone on without it.
            rest_s = max(0.0, self._timeout_s + 1 - (time.monotonic() - signal_s))
            continues = job.pause(rest_s)
            job.signal(processes, signal.SIGCONT)
            job.members -= set(processes)
        return continues

    def finish(self):
        """Takes what nobody has waited for."""
        self._job.read()
        for outcome, before, signal_s in self._open:
            later = self._job.continuations[before:]
            if later and later[0].lost:
                outcome.take(later[0], signal_s)
        self._take_joins()

    def _take_joins(self):
        lines = self._job.continuations
        for number in range(self._read, len(lines)):
            if lines[number].joined:
                self.outcomes.append(Outcome(JOIN, regrouping_s=lines[number].took_s))
        self._read = len(lines)

    def _wait_for_moment(self, kind):
        job, uniform = self._job, self._chance.uniform
        if kind == "kill during the start":
            return job.wait(lambda: len(job.workers()) > 1, "workers") and job.pause(uniform(0, 12))
        if kind == "kill during compilation":
            return job.wait(lambda: "compiling the training" in job.text, "compilation") and (
                job.pause(uniform(0, 6))
            )
        if kind == "kill at the end":
            return job.wait_for_row(lambda row: row["step"] >= self._steps, "the last row") and (
                job.pause(uniform(0, 1.2))
            )
        if not job.wait_for_row(lambda row: row["step"] > 0, "the first row"):
            return False
        wanted = 3 if kind == "kill of two at once" else 2
        if kind not in ENDING and not self._wait_for_members(wanted):
            return False
        if kind == "kill during a checkpoint":
            return job.wait_for_checkpoint() and job.pause(uniform(0, 0.04))
        if kind == "kill during an evaluation":
            return self._wait_for_evaluation() and job.pause(uniform(0, 0.3))
        if kind == "kill while a group forms":
            return self._start_change() and job.pause(uniform(0, 0.4))
        return job.pause(uniform(0, 4))

    def _wait_for_members(self, wanted):
        job = self._job
        most = len(job.workers())
        enough = lambda: len(self._present()) >= min(wanted, max(most, 2))  # noqa: E731
        return job.wait(enough, f"{wanted} workers", 2 * LIMIT_S)

    def _present(self):
        return self._job.members & set(self._job.workers().values())

    def _wait_for_evaluation(self):
        begins = lambda row: row["split"] == "train" and row["step"] % 100 == 0  # noqa: E731
        job = self._job
        return job.wait_for_row(lambda row: not begins(row), "a row") and job.wait_for_row(
            begins, "the row before an evaluation"
        )

    def _start_change(self):
        """Waits for the join of a worker, or loses one, if that leaves enough."""
        job = self._job
        if len(self._present()) == len(job.workers()) > 2:
            job.signal([self._chance.choice(sorted(self._present()))], signal.SIGKILL)
            return True
        return job.wait_for_change()

    def _victims(self, kind):
        job, workers = self._job, self._job.workers()
        if kind == "kill of all":
            return list(workers.values())
        if kind in ENDING or kind == "stop of the launcher":
            return [job.launcher]
        members = sorted(self._present() or workers.values())
        chief = workers.get(job.chief_slot)
        if kind == "kill while a group forms" and self._chance.random() < 0.5:
            joining = sorted(set(workers.values()) - set(members))
            if joining:
                return [self._chance.choice(joining)]
        if len(members) < 2:
            return []
        if kind == "kill of two at once" and len(members) > 2:
            return self._chance.sample(members, 2)
        if kind in ("kill of the chief", "kill during a checkpoint") and chief in members:
            return [chief]
        if kind == "kill of a worker":
            members = [member for member in members if member != chief]
        return [self._chance.choice(members)]
