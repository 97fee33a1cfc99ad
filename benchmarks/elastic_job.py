"""A job of several workers on this machine, which the elastic benchmark starts and disturbs."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.errors import PipelineError
from pipeline.runtimes.interpreter import python_command

_SETTINGS = (
    "train.log_every_steps=1", "train.evaluate_every_epochs=1000",
    "checkpoint.every_steps=20", "checkpoint.every_epochs=null", "monitor.report=false",
    "monitor.pictures=false", "train.max_steps=100000",
)  # fmt: skip
_POLL_S = 0.002
_LIMIT_S = 300.0
_CONTINUES = re.compile(r"\d+ workers? continues? from step (\d+) after")

_RESUMES = re.compile(r"resuming from \S*step-(\d+)")


def train_command(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Returns the command of one process that trains deterministically."""
    settings = ("train.deterministic=true", *_SETTINGS, *arguments.settings)
    words = ("train", arguments.recipe, *settings, f"run.dir={folder / 'run'}")
    return python_command("-m", "jobs.cli", *words)


def launch_command(arguments: argparse.Namespace, folder: Path, *options: str) -> list[str]:
    """Returns the command of `vit launch` with all workers."""
    launch = python_command("-m", "jobs.cli", "launch", "--slots", str(arguments.workers))
    return [*launch, *options, "--", *train_command(arguments, folder)]


def horovodrun_command(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Returns the command of horovodrun's elastic mode; writes its discovery script.

    Horovod excludes the whole host on which a process has failed, so each process needs a host of
    its own. All of these are this machine, because the case of a host name does not matter.
    """
    workers = arguments.workers
    hosts = folder / "hosts.sh"
    hosts.write_text("#!/bin/sh\n" + "".join(f"echo {_host(i)}:1\n" for i in range(workers)))
    hosts.chmod(0o755)
    child = python_command("-m", "benchmarks.elastic_horovod", str(folder), str(workers))
    return [
        str(Path(sys.executable).with_name("horovodrun")), "--gloo", "--network-interfaces", "lo",
        "-np", str(workers), "--min-np", "1", "--max-np", str(workers),
        "--host-discovery-script", str(hosts), *child, str(arguments.commit_every),
        arguments.recipe, *_SETTINGS, *arguments.settings,
    ]  # fmt: skip


def _host(number: int) -> str:
    """Returns a spelling of localhost: bit i of `number` makes letter i a capital."""
    letters = enumerate("localhost")
    return "".join(c.upper() if number >> i & 1 else c for i, c in letters)


class Job:
    """A job, watched through its metrics and its output.

    Args:
      command: What to start.
      folder: For the run folder and the log; it is created.

    Attributes:
      process: The launcher.
      folder: The argument.
      step_at_kill: The newest step when a worker was killed.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._metrics, self._log = folder / "run/metrics.jsonl", folder / "log.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.step_at_kill = 0

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(_LIMIT_S)

    def text(self) -> str:
        """What the job has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def rows(self) -> list[dict[str, Any]]:
        """The whole rows of metrics."""
        if not self._metrics.exists():
            return []
        whole, _, _ = self._metrics.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def step(self) -> int:
        """The newest step in the metrics; 0 without a row."""
        if not self._metrics.exists():
            return 0
        steps = re.findall(rb'^\{"step": ?(\d+)', self._metrics.read_bytes(), re.MULTILINE)
        return int(steps[-1]) if steps else 0

    def train_to(self, step: int) -> float:
        """Waits for a step. Returns the median time of the last 10 steps before it, in seconds."""
        times = [self.wait_for_step(end) for end in range(step - 10, step + 1)]
        return median(after - before for before, after in pairwise(times))

    def wait_for_step(self, step: int) -> float:
        """Waits for a step and returns the time."""
        return self.wait(lambda: self.step() >= step)

    def kill(self) -> float:
        """Kills the second worker, and returns the time of that."""
        found = re.search(r"rank 1 of \d+ on \S+ joined: pid (\d+)", self.text())
        if found is None:
            raise PipelineError("the job has not printed the process of its second worker")
        self.step_at_kill = self.step()
        os.kill(int(found[1]), signal.SIGKILL)
        return time.perf_counter()

    def wait_for_end(self) -> None:
        """Waits until the launcher has ended."""
        self.process.wait(_LIMIT_S)

    def wait_for_resume(self) -> int:
        """Waits until the job resumes from a checkpoint and returns its step."""
        self.wait(lambda: _RESUMES.search(self.text()) is not None)
        return int(_RESUMES.findall(self.text())[0])

    def step_of_continuation(self) -> int:
        """The step from which the workers that are left have continued first."""
        found = _CONTINUES.search(self.text())
        if found is None:
            raise PipelineError("the job has not printed from which step it continues")
        return int(found[1])

    def wait(self, condition: Callable[[], bool], limit_s: float = _LIMIT_S) -> float:
        """Waits for a condition and returns the time.

        Raises:
          PipelineError: It has not come within the limit, or the job has ended.
        """
        end_s = time.perf_counter() + limit_s
        while not condition():
            self.check(end_s)
            time.sleep(_POLL_S)
        return time.perf_counter()

    def check(self, end_s: float = math.inf) -> None:
        """Raises PipelineError if the job has ended, or after `end_s` of the performance clock."""
        if self.process.poll() is not None or time.perf_counter() > end_s:
            raise PipelineError(f"the job does not train:\n{self.text()[-4000:]}")
