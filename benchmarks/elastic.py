"""`python -m benchmarks elastic`"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.command import check_counts
from pipeline.errors import PipelineError
from pipeline.runtimes.interpreter import python_command

_EPILOG = """\
Trains a recipe with several workers, kills one of them, and measures how long it takes until the
next step of training is complete. An elastic job continues with the others. A job without
--min-workers ends, and the same command is started again, as a scheduler would do it; it repeats
the steps since its last checkpoint. Both kinds are measured in turn. "lost" is the time from the
kill to the first row of metrics of a later step, less the usual time of a step.
"""
_SETTINGS = (
    "train.deterministic=true", "train.log_every_steps=1", "train.evaluate_every_epochs=1000",
    "checkpoint.every_steps=20", "checkpoint.every_epochs=null", "monitor.report=false",
    "monitor.pictures=false", "train.max_steps=100000",
)  # fmt: skip
_POLL_S = 0.002
_LIMIT_S = 300.0
_FIRST_STEP = 30  # The first kill comes at least 10 steps after the first checkpoint.


class Loss(NamedTuple):
    """What one kill has cost.

    Attributes:
      seconds: Time from the kill to the next new step, less the usual time of a step.
      repeated_steps: Number of steps that were computed a second time.
    """

    seconds: float
    repeated_steps: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--recipe", default="digits", help="recipe (default: digits)")
    parser.add_argument("--workers", type=int, default=3, help="workers (default: 3)")
    parser.add_argument("--kills", type=int, default=5, help="kills of each kind (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures both kinds and prints a table."""
    check_counts(arguments, workers=2, kills=1)
    losses: dict[str, list[Loss]] = {"elastic": [], "restart": []}
    with tempfile.TemporaryDirectory(prefix="vit-elastic-") as folder:
        for number in range(arguments.kills):
            for kind, measure in (("elastic", _continue), ("restart", _restart)):
                run_folder = Path(folder, f"{kind}-{number}")
                losses[kind].append(measure(arguments, run_folder))
    for kind, found in losses.items():
        _print(arguments, kind, found)
    return 0


def _print(arguments: argparse.Namespace, kind: str, losses: Sequence[Loss]) -> None:
    seconds = sorted(loss.seconds for loss in losses)
    facts: dict[str, Any] = {
        "kind": kind,
        "workers": arguments.workers,
        "kills": len(losses),
        "lost_median_s": round(median(seconds), 2),
        "lost_worst_s": round(seconds[-1], 2),
        "repeated_steps_median": median(loss.repeated_steps for loss in losses),
    }
    if arguments.json:
        print(json.dumps(facts), flush=True)
        return
    print(
        f"{kind:8} {facts['workers']} workers, {facts['kills']} kills: lost "
        f"{facts['lost_median_s']:.2f} s (median), {facts['lost_worst_s']:.2f} s (worst); "
        f"{facts['repeated_steps_median']:g} steps repeated (median)",
        flush=True,
    )


def _continue(arguments: argparse.Namespace, folder: Path) -> Loss:
    """Kills a worker of an elastic job, which continues."""
    with _Job(arguments, folder, elastic=True) as job:
        step_s = job.train_to(_FIRST_STEP)
        start_s = job.kill()
        after = job.wait(lambda: job.step() > job.step_at_kill)
        return Loss(after - start_s - step_s, 0)


def _restart(arguments: argparse.Namespace, folder: Path) -> Loss:
    """Kills a worker of a job that then ends, and starts the job again."""
    with _Job(arguments, folder, elastic=False) as job:
        step_s = job.train_to(_FIRST_STEP)
        start_s = job.kill()
        reached = job.step_at_kill
        job.process.wait(_LIMIT_S)
    with _Job(arguments, folder, elastic=False) as job:
        job.wait(lambda: "resuming from" in job.text())
        resumed = int(re.findall(r"resuming from \S*step-(\d+)", job.text())[0])
        after = job.wait(lambda: job.step() > reached)
        return Loss(after - start_s - step_s, reached - resumed)


class _Job:
    """A job of several workers on this machine, watched through its metrics and its output.

    Attributes:
      process: The launcher.
      step_at_kill: The newest step when the worker was killed.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path, elastic: bool) -> None:
        folder.mkdir(exist_ok=True)
        self._metrics, self._log = folder / "run/metrics.jsonl", folder / "log.txt"
        vit = python_command("-m", "jobs.cli")
        launch = [*vit, "launch", "--slots", str(arguments.workers)]
        if elastic:
            launch += ["--min-workers", "1"]
        settings = (*_SETTINGS, *arguments.settings, f"run.dir={folder / 'run'}")
        command = [*launch, "--", *vit, "train", arguments.recipe, *settings]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.step_at_kill = 0

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(_LIMIT_S)

    def text(self) -> str:
        """What the job has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def step(self) -> int:
        """The newest step in the metrics; 0 without a row."""
        if not self._metrics.exists():
            return 0
        steps = re.findall(rb'^\{"step": ?(\d+)', self._metrics.read_bytes(), re.MULTILINE)
        return int(steps[-1]) if steps else 0

    def train_to(self, step: int) -> float:
        """Waits for a step. Returns the median time of the last 10 steps before it, in seconds."""
        times = [self._wait_for_step(end) for end in range(step - 10, step + 1)]
        return median(after - before for before, after in pairwise(times))

    def _wait_for_step(self, step: int) -> float:
        return self.wait(lambda: self.step() >= step)

    def kill(self) -> float:
        """Kills the second worker, and returns the time of that."""
        found = re.search(r"rank 1 of \d+ on \S+ joined: pid (\d+)", self.text())
        if found is None:
            raise PipelineError("the job has not printed the process of its second worker")
        self.step_at_kill = self.step()
        os.kill(int(found[1]), signal.SIGKILL)
        return time.perf_counter()

    def wait(self, condition: Callable[[], bool]) -> float:
        """Waits for a condition and returns the time.

        Raises:
          PipelineError: It has not come within 5 minutes, or the job has ended.
        """
        end_s = time.perf_counter() + _LIMIT_S
        while not condition():
            if self.process.poll() is not None or time.perf_counter() > end_s:
                raise PipelineError(f"the job does not train:\n{self.text()[-4000:]}")
            time.sleep(_POLL_S)
        return time.perf_counter()
