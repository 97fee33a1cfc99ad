"""The throughput mode of the elastic benchmark: steps of a job whose workers are killed regularly.

A killed worker is replaced, and the new process needs cores to import TensorFlow and to build the
model. On a machine with few cores, the other workers are slower meanwhile. The CPU time of new
processes until they join is measured, so that this part of the loss is known.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.elastic_job import Job, launch_command
from pipeline.cores import available_cores
from pipeline.runs.folder import RunFolder
from pipeline.runtimes.environment import SLOT

_FIRST_STEP = 20
_POLL_S = 0.25
_LIMIT_S = 600.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Period(NamedTuple):
    """What was measured in a period.

    Attributes:
      seconds: Its length.
      steps: Number of steps that were completed in it.
    """

    seconds: float
    steps: int

    @property
    def steps_per_s(self) -> float:
        """Steps per second."""
        return self.steps / self.seconds


class Newcomers:
    """The CPU time of the processes that replace killed ones, until they join.

    Args:
      known: The processes of the first group, by slot.

    Attributes:
      waiting: Processes that have not joined yet, by slot.
      joined: Number of processes that have joined.
    """

    def __init__(self, known: dict[int, int]) -> None:
        self._known = set(known.values())
        self.waiting: dict[int, int] = {}
        self._cpu_s: dict[int, float] = {}
        self.joined = 0

    @property
    def cpu_s(self) -> float:
        """CPU time in seconds so far."""
        return sum(self._cpu_s.values())

    def see(self, workers: dict[int, int]) -> None:
        """Takes the CPU times of new processes. `workers` are those that exist, by slot."""
        for slot, process in workers.items():
            if process not in self._known:
                self._known.add(process)
                self.waiting[slot] = process
        for process in self.waiting.values():
            self._cpu_s[process] = max(self._cpu_s.get(process, 0.0), cpu_s_of(process))

    def join(self, changes: list[str]) -> None:
        """Ends the measurement of those that have joined according to `workers.jsonl`."""
        for slot in list(self.waiting):
            if any(change.endswith(f":{slot} joined") for change in changes):
                del self.waiting[slot]
                self.joined += 1


def run(arguments: argparse.Namespace) -> int:
    """Measures half of the undisturbed time, the time with kills, and the other half."""
    with tempfile.TemporaryDirectory(prefix="vit-elastic-") as name:
        folder = Path(name, "job")
        with Job(launch_command(arguments, folder, "--min-workers", "1"), folder) as job:
            job.wait_for_step(_FIRST_STEP)
            _wait_for_all(job, arguments.workers)
            newcomers = Newcomers(workers_of(job))
            half_s = 30.0 * arguments.minutes
            before = _measure(job, half_s)
            disturbed, kills = _measure_with_kills(job, arguments, newcomers)
            cpu_s, joined = newcomers.cpu_s, newcomers.joined
            _wait_for_all(job, arguments.workers)
            after = _measure(job, half_s)
    cores = available_cores()
    usual = Period(before.seconds + after.seconds, before.steps + after.steps)
    facts = {
        "kind": "throughput",
        "workers": arguments.workers,
        "kills": kills,
        "minutes": arguments.minutes,
        "steps": disturbed.steps,
        "steps_per_s": round(disturbed.steps_per_s, 3),
        "undisturbed_steps_per_s": round(usual.steps_per_s, 3),
        "undisturbed_before": round(before.steps_per_s, 3),
        "undisturbed_after": round(after.steps_per_s, 3),
        "share": round(disturbed.steps_per_s / usual.steps_per_s, 3),
        "joined": joined,
        "newcomers_cpu_s": round(cpu_s, 1),
        "newcomers_cpu_share": round(cpu_s / (cores * disturbed.seconds), 3),
        "cores": cores,
    }
    print(json.dumps(facts) if arguments.json else _line(facts), flush=True)
    return 0


def _line(facts: dict[str, Any]) -> str:
    return (
        f"{facts['workers']} workers, {facts['kills']} kills in {facts['minutes']:g} minutes: "
        f"{facts['steps_per_s']:.2f} steps/s, {facts['share']:.1%} of the undisturbed "
        f"{facts['undisturbed_steps_per_s']:.2f} ({facts['undisturbed_before']:.2f} before, "
        f"{facts['undisturbed_after']:.2f} after). {facts['joined']} new processes have joined. "
        f"Before they joined, new processes used {facts['newcomers_cpu_s']:.0f} s of CPU time, "
        f"{facts['newcomers_cpu_share']:.1%} of {facts['cores']} cores"
    )


def _measure(job: Job, seconds: float) -> Period:
    start_s, first = time.monotonic(), job.step()
    job.wait(lambda: time.monotonic() - start_s >= seconds, seconds + _LIMIT_S)
    return Period(time.monotonic() - start_s, job.step() - first)


def _measure_with_kills(
    job: Job, arguments: argparse.Namespace, newcomers: Newcomers
) -> tuple[Period, int]:
    """Kills the worker of each slot in turn. Returns the period and the number of kills."""
    seconds, every_s = 60.0 * arguments.minutes, arguments.kill_every_s
    start_s, first, kills, seen = time.monotonic(), job.step(), 0, _changes(job)
    while (now_s := time.monotonic() - start_s) < seconds:
        workers = workers_of(job)
        newcomers.see(workers)
        rows = _changes(job)
        newcomers.join([change for row in rows[len(seen) :] for change in row["changes"]])
        seen = rows
        if now_s >= kills * every_s:
            order = [(kills + 1 + i) % arguments.workers for i in range(arguments.workers)]
            training = [slot for slot in order if slot in workers and slot not in newcomers.waiting]
            os.kill(workers[training[0]], signal.SIGKILL)
            kills += 1
        job.check()
        time.sleep(_POLL_S)
    return Period(time.monotonic() - start_s, job.step() - first), kills


def _wait_for_all(job: Job, workers: int) -> None:
    job.wait(lambda: (rows := _changes(job)) != [] and rows[-1]["workers"] == workers, _LIMIT_S)


def _changes(job: Job) -> list[dict[str, Any]]:
    return RunFolder(job.folder / "run").worker_changes()


def workers_of(job: Job) -> dict[int, int]:
    """The processes of the workers of a job, by slot."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or _parent(folder) != job.process.pid:
            continue
        try:
            facts = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for fact in facts:
            if fact.startswith(f"{SLOT}=".encode()):
                # Global slot, number of slots, slot on this host, number of them.
                found[int(fact.partition(b"=")[2].split(b",")[2])] = int(folder.name)
    return found


def cpu_s_of(process: int) -> float:
    """CPU time of a process and of its children that have ended, in seconds; 0 if it is gone."""
    words = _stat(Path("/proc", str(process)))
    return sum(map(int, words[11:15])) / _TICKS_PER_S


def _parent(folder: Path) -> int:
    words = _stat(folder)
    return int(words[1]) if words else 0


def _stat(folder: Path) -> list[str]:
    """The fields of /proc/PID/stat from the third on; empty if the process is gone."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
