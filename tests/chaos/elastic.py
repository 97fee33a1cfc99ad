"""Disturbs elastic jobs at random moments, and shows that they end as if nothing had happened.

    python -m tests.chaos.elastic --disturbances 300 --seed 0 --slots 2,3,4

Workers are killed, stopped, and asked to leave; new ones join. At its end, each run must have the
weights, the optimizer and the averages of an undisturbed single process, bit for bit, and the same
rows of metrics. The exit code is 0 only where all held. It takes some 25 s a disturbance.
"""

import random
import statistics
import sys
import time

from pipeline.errors import PipelineError
from tests.chaos import trials
from tests.chaos.disturbances import ANY_TIME, FIRST, JOIN, LAST, Disturber
from tests.chaos.elastic_job import LIMIT_S, ElasticJob
from tests.chaos.run_under_fire import ChaosError
from tests.chaos.undisturbed import Undisturbed
from tests.parallel.launches import Launches

# Long enough that processes on a busy machine are not taken for lost.
_HEARTBEAT_S = 4.0


def main():
    parser = trials.parser(__doc__.splitlines()[0], disturbances=300, steps=1800)
    parser.add_argument("--slots", default="2,3,4", help="numbers of workers, used in turn")
    parser.add_argument("--kinds", default="", help="only those with this in their name, by comma")
    return trials.run(ElasticChaos, parser.parse_args())


class ElasticChaos:
    """Runs of one recipe that are disturbed, and the undisturbed one.

    Attributes:
      failures: What did not hold, by run.
    """

    def __init__(self, folder, arguments):
        self.failures = {}
        self._folder, self._arguments = folder, arguments
        self._undisturbed = Undisturbed(folder, arguments.steps)
        self._chance = random.Random(arguments.seed)
        self._outcomes, self._runs = [], 0
        self._start_s = time.monotonic()
        self._pending = {group: [] for group in (FIRST, ANY_TIME, LAST)}

    def run(self):
        self._undisturbed.train()
        slots = [int(number) for number in self._arguments.slots.split(",")]
        done = 0
        while done < self._arguments.disturbances and self._minutes < self._arguments.minutes:
            number_of_slots = slots[self._runs % len(slots)]
            self._runs += 1
            name = f"run-{self._runs:03d}"
            launches = Launches()
            try:
                self._run_disturbed(name, launches, number_of_slots)
                print(f"{name}: bit-identical", flush=True)
            except (ChaosError, AssertionError, PipelineError) as error:
                self.failures[name] = str(error)
                print(f"{name}: FAILED: {str(error)[:2000]}", flush=True)
            finally:
                launches.clean_up()
            done = sum(outcome.kind != JOIN for outcome in self._outcomes)

    @property
    def _minutes(self):
        return (time.monotonic() - self._start_s) / 60

    def describe(self):
        """The table of results."""
        lines = [
            f"{'':<32}{'number':>8}{'next step after, s':>26}{'regrouping, s':>20}",
            f"{'':<40}{'median':>16}{'worst':>10}{'median':>10}{'worst':>10}",
        ]
        for kind in (*FIRST, *ANY_TIME, *LAST, JOIN):
            outcomes = [outcome for outcome in self._outcomes if outcome.kind == kind]
            if outcomes:
                after = _summary([outcome.to_next_step_s for outcome in outcomes])
                took = _summary([outcome.regrouping_s for outcome in outcomes])
                lines.append(f"{kind:<32}{len(outcomes):>8}{after[0]:>16}{after[1]:>10}"
                             f"{took[0]:>10}{took[1]:>10}")  # fmt: skip
        number = sum(outcome.kind != JOIN for outcome in self._outcomes)
        lines.append(
            f"{number} disturbances of {self._runs} runs in {self._minutes:.0f} minutes, "
            f"{self._runs - len(self.failures)} of them bit-identical with one undisturbed process"
        )
        lines += [f"{name} FAILED: {why.splitlines()[0]}" for name, why in self.failures.items()]
        return "\n".join(lines) + "\n"

    def _run_disturbed(self, name, launches, slots):
        run, chance = self._folder / name, self._chance
        minimum = chance.choice([1, 1, min(2, slots - 1)])
        launch = [
            sys.executable, "-m", "jobs.cli", "launch", "--hosts", "localhost", "--slots", slots,
            "--min-workers", minimum, "--heartbeat-timeout-s", _HEARTBEAT_S, "--",
        ]  # fmt: skip
        plan = self._plan(chance)
        print(f"{name}: {slots} workers, at least {minimum}: {', '.join(plan)}", flush=True)
        command = [*launch, *self._undisturbed.command(run)]
        job = ElasticJob(launches, self._folder / f"{name}.log", command, run)
        disturber = Disturber(job, chance, self._arguments.steps, _HEARTBEAT_S)
        try:
            for kind in plan:
                if not disturber.disturb(kind):
                    break
            code = job.end(LIMIT_S + self._arguments.steps)
        finally:
            disturber.finish()
            self._outcomes += disturber.outcomes
        if disturber.exit_code and code != 0:
            if code != disturber.exit_code:
                raise ChaosError(f"the job ended with {code}, not {disturber.exit_code}")
            job = ElasticJob(launches, self._folder / f"{name}-again.log", command, run)
            code = job.end(LIMIT_S + self._arguments.steps)
        if code != 0:
            raise ChaosError(f"the job ended with {code}")
        self._undisturbed.compare(run)

    def _plan(self, chance):
        """Kinds of the disturbances of one run, in their order."""
        chosen = bool(self._arguments.kinds)
        plan = [self._next(FIRST)] if chosen or chance.random() < 0.5 else []
        plan += [self._next(ANY_TIME) for _ in range(chance.randint(3, 5))]
        plan += [self._next(LAST)] if chosen or chance.random() < 0.6 else []
        return list(filter(None, plan))

    def _next(self, group):
        """Takes each kind of a group once before any of them again."""
        pending = self._pending[group]
        if not pending:
            words = self._arguments.kinds.split(",")
            pending += [kind for kind in group if any(word in kind for word in words)]
            self._chance.shuffle(pending)
        return pending.pop() if pending else None


def _summary(values):
    """Median and worst as text."""
    known = [value for value in values if value is not None]
    return (f"{statistics.median(known):.2f}", f"{max(known):.2f}") if known else ("-", "-")


if __name__ == "__main__":
    sys.exit(main())
