"""Elastic jobs on three hosts whose links are cut, and that vanish; as root.

    python -m tests.chaos.elastic_hosts --disturbances 30 --seed 0

Hosts are network namespaces behind a switch. Each has a name, process numbers and a launcher with
one worker of its own; they share a file system. A launcher that has ended is started again, as a
scheduler does it. At its end, each run must be bit-identical with one undisturbed process.
"""

import random
import statistics
import sys
import time
from collections import defaultdict

from pipeline.errors import PipelineError
from tests.chaos import trials
from tests.chaos.hosts_job import HostsJob
from tests.chaos.run_under_fire import ChaosError
from tests.chaos.undisturbed import Undisturbed
from tests.parallel.hosts import why_not
from tests.plan.links import Switch

_HEARTBEAT_S = 4.0
_HOSTS = 3
CUT, VANISHED, ENDED = "cut link", "vanished", "killed launcher"
# What happens, and to which host.
KINDS = [
    (what, who)
    for what in (CUT, VANISHED, ENDED)
    for who in ("any host", "the chief's host", "the coordinator's host")
] + [("two vanished", "two hosts")]


def main():
    arguments = trials.parser(__doc__.splitlines()[0], disturbances=60, steps=3000).parse_args()
    if missing := why_not():
        sys.exit(f"no hosts can be made: {missing}")
    return trials.run(HostsChaos, arguments)


class HostsChaos:
    """Runs of one recipe on hosts that are disturbed, and the undisturbed one.

    Attributes:
      failures: What did not hold, by run.
    """

    def __init__(self, folder, arguments):
        self.failures = {}
        self._folder, self._arguments = folder, arguments
        self._undisturbed = Undisturbed(folder, arguments.steps)
        self._chance = random.Random(arguments.seed)
        self._seconds = defaultdict(list)
        self._pending, self._runs, self._start_s = [], 0, time.monotonic()

    def run(self):
        self._undisturbed.train()
        wanted, minutes = self._arguments.disturbances, self._arguments.minutes
        while sum(map(len, self._seconds.values())) < wanted and self._minutes < minutes:
            self._runs += 1
            name = f"run-{self._runs:03d}"
            switch = Switch(_HOSTS)
            try:
                self._run_disturbed(name, switch)
                print(f"{name}: bit-identical", flush=True)
            except (ChaosError, AssertionError, PipelineError) as error:
                self.failures[name] = str(error)
                print(f"{name}: FAILED: {str(error)[:2000]}", flush=True)
                if len(self.failures) > 5:
                    break
            finally:
                switch.close()

    @property
    def _minutes(self):
        return (time.monotonic() - self._start_s) / 60

    def describe(self):
        """The table of results."""
        lines = [f"{'':<16}{'':<24}{'number':>8}{'next step after, s: median':>28}{'worst':>8}"]
        for (what, who), seconds in self._seconds.items():
            middle, worst = statistics.median(seconds), max(seconds)
            lines.append(f"{what:<16}{who:<24}{len(seconds):>8}{middle:>28.2f}{worst:>8.2f}")
        number = sum(map(len, self._seconds.values()))
        lines.append(
            f"{number} disturbances of {self._runs} runs on {_HOSTS} hosts in {self._minutes:.0f} "
            f"minutes, {self._runs - len(self.failures)} of them bit-identical with one "
            f"undisturbed process; --heartbeat-timeout-s {_HEARTBEAT_S:g}"
        )
        lines += [f"{name} FAILED: {why.splitlines()[0]}" for name, why in self.failures.items()]
        return "\n".join(lines) + "\n"

    def _run_disturbed(self, name, switch):
        run, chance = self._folder / name, self._chance
        launch = (
            "--hosts", ",".join(switch.names), "--slots", 1, "--min-workers", 1,
            "--heartbeat-timeout-s", _HEARTBEAT_S,
        )  # fmt: skip
        job = HostsJob(switch, launch, self._undisturbed.command(run), self._folder / name)
        if not job.wait(lambda: job.steps_seen, "the first step"):
            raise ChaosError("the run ended before its first disturbance")
        for _ in range(chance.randint(3, 5)):
            kind = self._next()
            if not (job.pause(chance.uniform(0, 4)) and self._disturb(job, kind)):
                break
        job.end()
        self._undisturbed.compare(run)

    def _next(self):
        """Takes each kind once before any of them again."""
        if not self._pending:
            self._pending = list(KINDS)
            self._chance.shuffle(self._pending)
        return self._pending.pop()

    def _disturb(self, job, kind):
        """Disturbs a job, and lets all hosts come back. Returns False if the run has ended."""
        what, who = kind
        hosts = [self._chance.randrange(_HOSTS)]
        if who == "the chief's host":
            hosts = [job.chief]
        elif who == "the coordinator's host":
            hosts = [job.coordinator]
        elif who == "two hosts":
            hosts = self._chance.sample(range(_HOSTS), 2)
        print(f"    {what}: {who} ({', '.join(map(str, hosts))})", flush=True)
        before, start_s = len(job.losses), time.monotonic()
        for host in hosts:
            if what != ENDED:
                job.cut(host)
            if what != CUT:
                job.kill(host)
        if not job.wait(lambda: len(job.losses) > before, f"after: {what}"):
            return False
        self._seconds[kind].append(job.losses[before] - start_s)
        goes_on = job.pause(self._chance.uniform(0, 3))
        for host in hosts:
            job.join(host)
        return goes_on and job.heal()


if __name__ == "__main__":
    sys.exit(main())
