"""`python -m benchmarks memory`"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.command import check_counts
from pipeline.errors import PipelineError
from pipeline.recipes import find_recipe
from pipeline.runtimes.interpreter import python_command
from pipeline.strict_json import to_json

_EPILOG = """\
Measures the peak memory that training adds to a process, and its speed: for the recipe as it is,
and with settings that need less memory. Each is measured in a separate process, --rounds times in
turn, on random images in memory; the table shows medians. It also shows the estimate of
`vit train --dry-run` without TensorFlow's own memory, the estimate as a fraction of the measured
memory, and two parts of the estimate: weights with gradients and moments, and activations. On a
GPU, the memory is that of the GPU as counted by TensorFlow.
"""

_WAYS = (
    (),
    ("train.recompute=true",),
    ("optim.accumulate_steps=2",),
    ("optim.accumulate_steps=4",),
    ("optim.accumulate_steps=4", "train.recompute=true"),
    ("train.precision=mixed_bfloat16",),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("recipe", nargs="?", default="cifar10", help="recipe (default: cifar10)")
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--steps", type=int, default=4, help="steps per timing (default: 4)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="number of processes for each (default: 2)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures each combination of settings and prints a table."""
    check_counts(arguments, steps=1, rounds=1)
    recipe = str(find_recipe(arguments.recipe))
    found: dict[str, list[dict[str, float]]] = {" ".join(way): [] for way in _WAYS}
    for _ in range(arguments.rounds):
        for way, timings in found.items():
            settings = [*arguments.settings, *way.split()]
            timings.append(_measure(recipe, settings, arguments.steps))
    rows = [_row(way or "recipe unchanged", timings) for way, timings in found.items()]
    for row in rows:
        row["relative_speed"] = row["images_per_second"] / rows[0]["images_per_second"]
    print("\n".join(map(to_json, rows) if arguments.json else _table(rows)))
    return 0


def _measure(recipe: str, settings: list[str], steps: int) -> dict[str, float]:
    command = python_command("-m", "benchmarks.memory_process", recipe, str(steps))
    done = subprocess.run([*command, *settings], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"with {' '.join(settings)}:\n{done.stderr[-3000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _row(way: str, timings: list[dict[str, float]]) -> dict[str, Any]:
    rates = [one["images_per_second"] for one in timings]
    medians = {name: median(one[name] for one in timings) for name in timings[0]}
    return {"settings": way, **medians, "least": min(rates), "most": max(rates)}


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        f"{'MiB':<46}{'measured':>9}{'estimated':>11}{'estimated/measured':>20}"
        f"{'weights, gradients, moments':>29}{'activations':>13}{'images/s':>10}"
        f"{'relative speed':>16}"
    )
    for row in rows:
        yield (
            f"{row['settings']:<46}{row['added_mib']:>9,.0f}{row['estimated_mib']:>11,.0f}"
            f"{row['estimated_of_measured']:>20.2f}"
            f"{row['parameters_mib']:>29,.0f}{row['activations_mib']:>13,.0f}"
            f"{row['images_per_second']:>10,.1f}{row['relative_speed']:>16.2f}"
        )
