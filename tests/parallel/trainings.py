"""Training runs in processes of their own: started, watched by what they print, and compared."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.runs.checkpoints.store import CheckpointStore
from tests.parallel.launches import HERE, ROOT
from tests.rows import without_timings

SHORT_STEPS = 40
# All that a resume could get wrong: averages, decay, clipping, augmentation, an order that goes on
# across the ends of epochs, rows that checkpoints fall between. No dropout, which is drawn for each
# replica.
SHORT = """
seed: 3
data: {source: synthetic, num_classes: 4, num_examples: 90, image_size: 8, resize: none,
       global_batch_size: 12, label_smoothing: 0.1,
       augment: {flip: true, crop_padding: 1, rotation: 0.05, zoom: 0.1}}
model: {variant: Ti/4, width: 16, depth: 1, num_heads: 2, mlp_dim: 32}
optim: {base_lr: 2e-2, warmup_steps: 3, ema_momentum: 0.9, weight_decay: 0.1, clip_norm: 0.5}
train: {max_steps: 40, log_every_steps: 5, evaluate_every_steps: 20, deterministic: true}
distribute: {intra_op_threads: 1}
checkpoint: {every_steps: 4, every_epochs: null}
monitor: {pictures: false, report: false}
"""

# For a start on a machine that does much else; what takes longer hangs.
_LIMIT_S = 240.0


class Training:
    """One start of `vit train`, alone or as ranks of a launcher.

    What it prints goes to a file, so that it can be read at any time and never holds it up.

    Args:
      launches: Has the mark by which every process of the test is found, and ends what is left.
      log: The file.
      command: All words.
      folder: Where it runs.
    """

    def __init__(self, launches, log, command, folder=ROOT):
        self.log = Path(log)
        name, value = launches.mark.split("=")
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env=os.environ
                | {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1", name: value},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        launches.started.append(self.process)
        self._launches = launches

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def wait_for(self, condition, timeout_s=_LIMIT_S):
        """Until it has printed a text, or a condition holds; it must still run then."""
        holds = condition if callable(condition) else lambda: condition in self.text
        limit = time.monotonic() + timeout_s
        while not holds():
            assert self.process.poll() is None, f"it ended first:\n{self.text}"
            assert time.monotonic() < limit, f"this did not come:\n{self.text}"
            time.sleep(0.01)

    def end(self, timeout_s=_LIMIT_S):
        """Its exit code and all it printed, once it has ended by itself."""
        self.process.wait(timeout_s)
        return self.process.returncode, self.text

    def succeed(self, timeout_s=_LIMIT_S):
        """All it printed, once it has ended with 0."""
        code, text = self.end(timeout_s)
        assert code == 0, text
        return text

    def ranks(self):
        """Process ids of the ranks, by rank, as far as they run."""
        found = {}
        for process in self._launches.left():
            try:
                facts = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            found |= {
                int(fact.split(b"=")[1]): process
                for fact in facts
                if fact.startswith(b"HOROVOD_RANK=")
            }
        return found

    def signal_rank(self, rank, number=signal.SIGTERM):
        os.kill(self.ranks()[rank], number)


def python_path():
    """This project first, and then what PYTHONPATH names."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def train_command(recipe, *settings, slots=1, tamper=None):
    """The words that train a recipe.

    Args:
      slots: Ranks of Horovod, by `vit launch`; 1: one process, without it.
      tamper: What tampered_train.py is to do; None: nothing, it is `vit train` itself.
    """
    vit = [sys.executable, "-m", "jobs.cli"]
    train = (
        [*vit, "train"] if tamper is None else [sys.executable, HERE / "tampered_train.py", tamper]
    )
    launch = (
        [*vit, "launch", "--hosts", "localhost", "--processes-per-node", slots, "--"]
        if slots > 1
        else []
    )
    return [*launch, *train, recipe, *settings]


def horovodrun_command(ranks, train):
    """The words that start `train` as ranks of horovodrun."""
    return [Path(sys.executable).with_name("horovodrun"), "--gloo", "-np", ranks, *train]


def write_recipe(folder, text=SHORT):
    """A recipe's file; the same each time, so that a run can be started again."""
    file = folder / "short.yaml"
    file.write_text(text)
    return file


def read_rows(run):
    """Whole rows of metrics, without what depends on how fast it went; none before the first."""
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [without_timings(json.loads(line)) for line in lines]


def steps_of(run):
    """Steps of the run's whole checkpoints."""
    return CheckpointStore(run / "checkpoints").steps()


def newest(run):
    """The newest checkpoint, which must be whole."""
    return CheckpointStore(run / "checkpoints").load(steps_of(run)[-1])


def different_tensors(snapshot, other):
    """Names of the tensors that are not equal bit for bit."""
    names = {(g, n) for s in (snapshot, other) for g, arrays in s.tensors.items() for n in arrays}
    return sorted(
        f"{group}/{name}"
        for group, name in names
        if not np.array_equal(
            snapshot.tensors.get(group, {}).get(name), other.tensors.get(group, {}).get(name)
        )
    )


def leftovers(run):
    """What an interrupted save, lock or start would leave in a run folder."""
    patterns = (
        "checkpoints/*.unfinished", "checkpoints/*.replaced", ".try-*", ".lock*", "*.new", ".*.new",
        "stop",
    )  # fmt: skip
    return sorted(str(p.relative_to(run)) for pattern in patterns for p in run.glob(pattern))


def assert_same_end(run, undisturbed):
    """Weights, optimizer and averages are equal bit for bit, and each row is there once."""
    ours, theirs = newest(run), newest(undisturbed)
    assert ours.step == theirs.step
    assert different_tensors(ours, theirs) == []
    rows, expected = read_rows(run), read_rows(undisturbed)
    assert [(r["step"], r["split"]) for r in rows] == [(r["step"], r["split"]) for r in expected]
    for row, other in zip(rows, expected, strict=True):
        assert same_values(row, other), f"{row}\n{other}"
    assert leftovers(run) == []


def same_values(row, other):
    """Whether rows of metrics are equal but for the last digits of double precision.

    On two ranks sums are brought together when they are saved, so that the row of a run that was
    resumed amid it is added up in another order.
    """
    return row.keys() == other.keys() and all(
        math.isclose(value, other[key], rel_tol=1e-12)
        if isinstance(value, float) and isinstance(other[key], float)
        else value == other[key]
        for key, value in row.items()
    )
