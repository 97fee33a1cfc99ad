"""One run that is killed at random moments and started again, until it has come to its end."""

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from pipeline.runs.checkpoints.store import CheckpointError, CheckpointStore
from tests.parallel.launches import wait_until
from tests.parallel.trainings import Training, leftovers, train_command

# Long enough for a start on a machine that does much else; what takes longer hangs.
_LIMIT_S = 180.0
# A checkpoint of digits takes some 30 ms to write, of which the kill is to hit any.
_WRITE_S = 0.03


class ChaosError(Exception):
    """Something that must hold did not."""


class Part:
    """A run, its command, and what was seen of it.

    Args:
      name: For the lines it prints.
      launches: Finds and ends processes.
      folder: For the run folders and logs.
      ranks: Processes that train together.
      kills: How many times.
      steps: Length of the run.
      seed: Of the random moments.
    """

    def __init__(self, name, launches, folder, ranks, kills, steps, seed):
        self.name, self.ranks, self.kills, self.steps = name, ranks, kills, steps
        self.run = folder / name.replace(" ", "-")
        self.undisturbed = self.run.with_name(f"{self.run.name}-undisturbed")
        self.counts = Counter()
        self.lost_steps = []
        self.launches = launches
        self._random = random.Random(f"{seed} {name}")
        self._newest = -1
        # Measured by the undisturbed run.
        self._start_s, self._steps_per_s = 10.0, 20.0

    def train(self, run, number):
        """Starts the command."""
        settings = (
            f"run.dir={run}", f"train.max_steps={self.steps}", "train.deterministic=true",
            "distribute.intra_op_threads=1", "data.global_batch_size=24",
            f"distribute.runtime={'single' if self.ranks == 1 else 'horovod'}",
            # No multiple of one another, so that kills fall between each two of them.
            "checkpoint.every_steps=20", "checkpoint.every_epochs=null", "train.log_every_steps=7",
            "train.evaluate_every_steps=150",
        )  # fmt: skip
        log = run.with_name(f"{run.name}-{number:03d}.log")
        return Training(self.launches, log, train_command("digits", *settings, slots=self.ranks))

    def run_undisturbed(self):
        """The reference, and how fast a start and a step are here."""
        start_s = time.monotonic()
        training = self.train(self.undisturbed, 0)
        training.wait_for(lambda: last_step(self.undisturbed) > 0, _LIMIT_S)
        first_s = time.monotonic()
        code, text = training.end(_LIMIT_S + self.steps)
        if code != 0:
            raise ChaosError(f"the undisturbed run ended with {code}:\n{text}")
        self._start_s = first_s - start_s
        self._steps_per_s = self.steps / (time.monotonic() - first_s)
        print(
            f"{self.name}: {self.steps} undisturbed steps, {self._steps_per_s:.0f} a second, the "
            f"first after {self._start_s:.1f} s",
            flush=True,
        )

    def kill_again_and_again(self):
        """Kills and starts again, then lets the run come to its end."""
        # Every third in a checkpoint's writing, every sixth while it starts.
        moments = [("writing", "training", "starting", "writing", "training", "training")[k % 6]
                   for k in range(self.kills)]  # fmt: skip
        for number, moment in enumerate(moments, 1):
            training = self.train(self.run, number)
            victims = self._kill(training, moment, self.kills - number)
            code = self._wait_for_end(training)
            self._check_checkpoints()
            self._tell(number, moment, victims, training.text, code)
        training = self.train(self.run, self.kills + 1)
        code, text = training.end(_LIMIT_S + self.steps)
        if code != 0:
            raise ChaosError(f"the last start ended with {code}:\n{text}")
        self._check_checkpoints()
        if left := self.launches.left():
            raise ChaosError(f"processes are left: {left}")
        if left := leftovers(self.run):
            raise ChaosError(f"left in the run folder: {left}")

    def _kill(self, training, moment, kills_to_come):
        """Waits for the moment, kills, and says whom."""
        came_to = max(last_step(self.run), 0)
        if moment == "starting":
            seconds, most_steps = self._random.uniform(0, self._start_s), 1
        else:
            # The first row after what this start took back: rows end where its checkpoint is.
            training.wait_for(lambda: "resuming from" in training.text or came_to == 0, _LIMIT_S)
            resumed = last_step(self.run)
            training.wait_for(lambda: last_step(self.run) > resumed, _LIMIT_S)
            came_to = last_step(self.run)
            # So that the steps suffice for all the kills, and some are left for the end.
            most_steps = 1.5 * (self.steps - came_to) / (kills_to_come + 2)
            seconds = self._random.uniform(0, most_steps) / self._steps_per_s
        # The machine may be faster than it was when it was measured.
        until_s = time.monotonic() + seconds
        training.wait_for(
            lambda: time.monotonic() > until_s or last_step(self.run) >= came_to + most_steps,
            seconds + _LIMIT_S,
        )
        # Looked up before, since a checkpoint is written in less time than that takes.
        victims = self._choose(training, moment)
        if moment == "writing":
            checkpoints = self.run / "checkpoints"
            seen = lambda: any(n.endswith(".unfinished") for n in os.listdir(checkpoints))  # noqa: E731
            limit_s = time.monotonic() + _LIMIT_S
            while not seen():
                if training.process.poll() is not None or time.monotonic() > limit_s:
                    raise ChaosError(f"no checkpoint is being written:\n{training.text}")
                time.sleep(0.0005)
            time.sleep(self._random.uniform(0, _WRITE_S))
        if training.process.poll() is not None:
            raise ChaosError(f"it ended before it was killed:\n{training.text}")
        for process in victims.values():
            os.kill(process, signal.SIGKILL)
        return " and ".join(victims)

    def _choose(self, training, moment):
        """Processes to kill, by what they are called."""
        if self.ranks == 1:
            return {"it": training.process.pid}
        ranks = training.ranks()
        # Rank 0 is the one that writes.
        chosen = self._random.choice([[0], [0, 1]] if moment == "writing" else [[0], [1], [0, 1]])
        if not set(chosen) <= ranks.keys():
            return {"the launcher": training.process.pid}  # it has not started them yet
        return {f"rank {rank}": ranks[rank] for rank in chosen}

    def _wait_for_end(self, training):
        code, text = training.end(_LIMIT_S)
        try:
            wait_until(lambda: not self.launches.left(), 10)
        except AssertionError:
            raise ChaosError(f"processes are left: {self.launches.left()}\n{text}") from None
        if code == 0:
            raise ChaosError(f"it was killed and ended with 0:\n{text}")
        return code

    def _check_checkpoints(self):
        """Every checkpoint with a final name is whole, and none of the newest was lost."""
        store = CheckpointStore(self.run / "checkpoints")
        steps = store.steps()
        for step in steps:
            try:
                store.load(step)
            except CheckpointError as error:
                raise ChaosError(str(error)) from None
        newest = max(steps, default=-1)
        if newest < self._newest:
            raise ChaosError(f"the newest checkpoint was {self._newest}, and is {newest}")
        self._newest = newest
        if set_aside := list(self.run.glob("checkpoints/*.set-aside*")):
            raise ChaosError(f"taken for damaged: {set_aside}")

    def _tell(self, number, moment, victims, text, code):
        row, found = last_step(self.run), "nothing half-written"
        if half := list(self.run.glob("checkpoints/*.unfinished")):
            self.counts["a half-written checkpoint was there"] += 1
            found = f"{half[0].name} with {len(list(half[0].iterdir()))} file(s)"
        self.counts[f"killed while {moment}"] += 1
        resumed = "the start"
        if "resuming from" in text:
            resumed = text.split("resuming from ")[1].split()[0].rpartition("/")[2]
            self.counts["went on from a checkpoint"] += 1
        if self._newest >= 0 and row >= self._newest:
            self.lost_steps.append(row - self._newest)
        print(
            f"{self.name} {number}/{self.kills}: from {resumed}, killed {victims} while {moment}, "
            f"last row {row}, newest checkpoint {self._newest}, {found}, exit code {code}",
            flush=True,
        )


def last_step(run: Path):
    """Of the last whole row of metrics; -1 where there is none."""
    try:
        with (run / "metrics.jsonl").open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            lines = stream.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError):
        return -1
