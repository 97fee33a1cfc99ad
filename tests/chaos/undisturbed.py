"""The run of one process that nothing disturbs, with which disturbed runs are compared."""

import hashlib
import time

from tests.chaos.elastic_job import LIMIT_S
from tests.chaos.run_under_fire import ChaosError
from tests.parallel.launches import Launches
from tests.parallel.trainings import (
    Training,
    different_tensors,
    leftovers,
    newest,
    read_rows,
    train_command,
)


class Undisturbed:
    """The run.

    Args:
      folder: For its run folder and log.
      steps: Its length, and that of the runs that are compared with it.
      settings: Settings that replace the usual ones.
    """

    def __init__(self, folder, steps, settings=()):
        self._run, self._log = folder / "undisturbed", folder / "undisturbed.log"
        self._steps, self._settings = steps, settings

    def command(self, run):
        """All words that train the same in another run folder."""
        settings = (
            f"run.dir={run}", f"train.max_steps={self._steps}",
            "train.deterministic=true", "distribute.intra_op_threads=1",
            "model.depth=2", "data.global_batch_size=48",
            "checkpoint.every_steps=40", "checkpoint.every_epochs=null",
            "train.log_every_steps=20", "train.evaluate_every_steps=100",
            "monitor.report=false", "monitor.pictures=false",
        )  # fmt: skip
        return train_command("digits", *settings, *self._settings)

    def train(self):
        """Trains it to the end, and prints its digest."""
        launches, start_s = Launches(), time.monotonic()
        try:
            training = Training(launches, self._log, self.command(self._run))
            code, text = training.end(LIMIT_S + self._steps)
        finally:
            launches.clean_up()
        if code != 0:
            raise ChaosError(f"the undisturbed run ended with {code}:\n{text}")
        seconds = time.monotonic() - start_s
        print(f"undisturbed: {seconds:.0f} s, SHA-256 {digest(self._run)}", flush=True)

    def compare(self, run):
        """Raises if a run did not end as this one."""
        ours, theirs = newest(run), newest(self._run)
        if ours.step != theirs.step:
            raise ChaosError(f"it ends at step {ours.step}, not {theirs.step}")
        if different := different_tensors(ours, theirs):
            raise ChaosError(f"tensors that are not equal bit for bit: {', '.join(different)}")
        rows, expected = read_rows(run), read_rows(self._run)
        places = [(row["step"], row["split"]) for row in rows]
        if len(set(places)) != len(places):
            raise ChaosError("metrics.jsonl has a step and split twice")
        if places != [(row["step"], row["split"]) for row in expected]:
            missing = {(row["step"], row["split"]) for row in expected} ^ set(places)
            raise ChaosError(f"metrics.jsonl has other rows than the undisturbed run's: {missing}")
        for row, other in zip(rows, expected, strict=True):
            if row != other:
                raise ChaosError(f"rows differ: {row} and {other}")
        if left := leftovers(run):
            raise ChaosError(f"left in the run folder: {left}")


def digest(run):
    """SHA-256 of all tensors of the newest checkpoint."""
    tensors = newest(run).tensors
    sha = hashlib.sha256()
    for group in sorted(tensors):
        for name in sorted(tensors[group]):
            sha.update(f"{group}/{name}".encode() + tensors[group][name].tobytes())
    return sha.hexdigest()
