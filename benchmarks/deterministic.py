"""`python -m benchmarks deterministic`"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Self

from benchmarks.command import check_counts
from pipeline.config import dump_config, load_config
from pipeline.errors import PipelineError, SettingsError
from pipeline.launch.job import local_launch_command
from pipeline.recipes import find_recipe
from pipeline.runtimes.interpreter import python_command
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

_EPILOG = """\
Compares training steps of train.deterministic=true with the default, on random images: one process
on one core, one process on all cores, and Horovod workers with one core each. Both kinds of
processes run at the same time and train steps in turn. Every second pair starts with the default.
"of default" is the median of the ratios of the pairs, with the smallest and the largest. "CPU" is
the same ratio for processor time, which other work on the machine affects less. The bytes are those
of the tensors that a worker sums with others in a step.
"""


class Case(NamedTuple):
    """A recipe with fewer images per step."""

    recipe: str
    settings: tuple[str, ...]


CASES = {
    "cifar": Case("cifar10", ()),
    "S/16": Case("imagenet_s16_90ep", ("data.image_size=224", "data.global_batch_size=16")),
}
_START_S = 0.5  # How long to wait for a connection before looking whether the process has ended.
_END_S = 60.0


class Kind(NamedTuple):
    """Processes to measure: Horovod workers, or a single process on several cores."""

    workers: int
    cores: int

    @property
    def title(self) -> str:
        if self.workers > 1:
            return f"horovod, {self.workers} workers"
        return f"one process, {self.cores} core{'s' if self.cores > 1 else ''}"


class Timing(NamedTuple):
    """Time of some steps in the slowest process, and processor time of all processes."""

    seconds: float
    cpu_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--cases", default=",".join(CASES), help=f"some of {', '.join(CASES)}")
    parser.add_argument("--workers", type=int, default=2, help="Horovod workers (default: 2)")
    parser.add_argument("--steps", type=int, default=2, help="steps per timing (default: 2)")
    parser.add_argument("--rounds", type=int, default=8, help="number of pairs (default: 8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures each case on each kind of processes and prints a table."""
    check_counts(arguments, workers=1, steps=1, rounds=1)
    names, cores = arguments.cases.split(","), sorted(os.sched_getaffinity(0))
    if unknown := [name for name in names if name not in CASES]:
        raise SettingsError(f"--cases must be some of {', '.join(CASES)}. Received: {unknown[0]}")
    if arguments.workers > len(cores):
        raise SettingsError(
            f"--workers must be at most {len(cores)}: each worker needs its own core. "
            f"Received: {arguments.workers}"
        )
    kinds = dict.fromkeys([Kind(1, 1), Kind(1, len(cores)), Kind(arguments.workers, 1)])
    if not arguments.json:
        print(_HEADER, flush=True)
    for name in names:
        for kind in kinds:
            row = {"case": name, "processes": kind.title} | _measure(CASES[name], kind, arguments)
            print(to_json(row) if arguments.json else _line(row), flush=True)
    return 0


def _measure(case: Case, kind: Kind, arguments: argparse.Namespace) -> dict[str, float]:
    """Times both kinds of steps in turn."""
    timings: dict[bool, list[Timing]] = {False: [], True: []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-benchmark-")))
        started: dict[bool, _Training] = {}
        for deterministic in timings:
            settings = [*_settings(case, kind, deterministic), *arguments.settings]
            config = load_config(find_recipe(case.recipe), settings)
            batch = config.data.global_batch_size
            recipe = folder / f"{deterministic}.yaml"
            replace_file(recipe, dump_config(config))
            training = _Training(kind, recipe, arguments.steps)
            started[deterministic] = stack.enter_context(training)
        order = list(timings)
        for _ in range(arguments.rounds):
            for deterministic in order:
                timings[deterministic].append(started[deterministic].ask())
            order.reverse()  # A steady drift of the machine's speed then favors neither.
        facts = {deterministic: training.facts for deterministic, training in started.items()}
    return row_of(timings, facts, arguments.steps * batch)


def _settings(case: Case, kind: Kind, deterministic: bool) -> list[str]:
    threads = 1 if kind.workers > 1 else kind.cores
    return [
        *case.settings,
        "data.source=synthetic",
        "data.num_examples=256",
        "train.precision=float32",
        f"data.threads={threads}",
        f"train.deterministic={str(deterministic).lower()}",
        f"distribute.runtime={'horovod' if kind.workers > 1 else 'single'}",
    ]


def row_of(
    timings: Mapping[bool, Sequence[Timing]], facts: Mapping[bool, Mapping[str, int]], images: int
) -> dict[str, float]:
    """Compares the timings of deterministic steps (True) with those of the default (False).

    Args:
      timings: In pairs.
      facts: The `values` of the model, and the `bytes` that a worker sums in a step.
      images: Images per timing.
    """
    pairs = list(zip(timings[False], timings[True], strict=True))
    shares = [default.seconds / ours.seconds for default, ours in pairs]
    return {
        "images_per_second": images / median(ours.seconds for _, ours in pairs),
        "default_images_per_second": images / median(default.seconds for default, _ in pairs),
        "share": median(shares),
        "least": min(shares),
        "most": max(shares),
        "cpu_share": median(default.cpu_seconds / ours.cpu_seconds for default, ours in pairs),
        "megabytes_per_step": facts[True]["bytes"] / 1e6,
        "default_megabytes_per_step": facts[False]["bytes"] / 1e6,
        "bytes_per_value": facts[True]["bytes"] / facts[True]["values"],
    }


class _Training:
    """Processes that train some steps together whenever they are asked to."""

    def __init__(self, kind: Kind, recipe: Path, steps: int) -> None:
        self.facts: dict[str, int] = {}
        self._log = recipe.with_suffix(".log")
        address = recipe.with_suffix(".socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(address))
        self._listener.listen(1)
        self._listener.settimeout(_START_S)
        count = max(kind.workers, kind.cores)
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))
        words = (str(recipe), str(address), str(steps), cores)
        launcher = local_launch_command(kind.workers, "horovod") if kind.workers > 1 else []
        with self._log.open("wb") as stream:
            self._process = subprocess.Popen(
                [*launcher, *python_command("-m", "benchmarks.deterministic_rank", *words)],
                stdout=stream, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> Self:
        try:
            while True:
                with suppress(TimeoutError):
                    self._stream: Any = self._listener.accept()[0].makefile("rw")
                    break
                if self._process.poll() is not None:
                    raise self._failure()
            self.facts = json.loads(self._receive())
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # The chief finds the connection closed, and all processes end.
        self._stream.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if kind else _END_S)
        self._process.kill()

    def ask(self) -> Timing:
        """Trains the steps and returns the time that they took."""
        with suppress(BrokenPipeError):  # It has ended; its output says why.
            print("go", file=self._stream, flush=True)
        return Timing(*json.loads(self._receive()))

    def _receive(self) -> str:
        line = str(self._stream.readline())
        if not line:
            raise self._failure()
        return line

    def _failure(self) -> PipelineError:
        return PipelineError(f"training failed:\n{self._log.read_text(errors='replace')[-6000:]}")


_HEADER = (
    f"{'':<30}{'deterministic':>13}{'default':>9}   {'of default':<24}{'CPU':>7}"
    f"{'MB/step':>8}{'default':>9}{'bytes/value':>13}"
)


def _line(row: Mapping[str, Any]) -> str:
    spread = f"{row['share']:.1%} ({row['least']:.1%} to {row['most']:.1%})"
    return (
        f"{row['case']:<7}{row['processes']:<23}{row['images_per_second']:>13.1f}"
        f"{row['default_images_per_second']:>9.1f}   {spread:<24}{row['cpu_share']:>7.1%}"
        f"{row['megabytes_per_step']:>8.2f}{row['default_megabytes_per_step']:>9.2f}"
        f"{row['bytes_per_value']:>13.3f}"
    )
