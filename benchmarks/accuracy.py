"""`python -m benchmarks accuracy --data FOLDER`"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from pipeline.errors import PipelineError, SettingsError, Stopped
from pipeline.recipes import find_recipe
from pipeline.runtimes.interpreter import python_command
from pipeline.storage.folders import make_folder, remove_folder
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

OURS, THEIRS = "ours", "example"

_MARKS = (
    1,
    2,
    3,
    4,
    5,
    7.5,
    10,
    15,
    20,
    25,
    30,
    40,
    50,
    60,
)  # Minutes. Those within --minutes are used.
_PROBE_STEPS = 150
_START_S = 20  # Approximate time from the start of the process to its first step.
_MARGIN = 0.9  # Leaves room for slower steps, so that the end of the schedule is reached.

_EPILOG = """\
Trains the Keras example as its authors wrote it (stock layers and model.fit, see
benchmarks/keras_example_fit.py), and a recipe of this package, on the same images, for the same
time, on the same cores, one after the other. The time includes the start of the process: imports,
reading data and compiling. Weights are saved during training and evaluated on the test images after
both have ended, so evaluation takes no training time and does not influence the choice of weights.
"the best" are the weights that were best on held-out training images.

The number of steps that fit is measured first, in a short training that does not count. Results
that exist in --out are not measured again, so an interrupted benchmark can be continued.
"""
# Child processes import the repository's modules whatever their current folder is.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument(
        "recipe", nargs="?", default="small_budget", help="recipe (default: small_budget)"
    )
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/<class>/* and test/<class>/*"
    )
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="training time of each (default: 30)"
    )
    parser.add_argument("--seeds", default="0", help="seeds; each trains a pair (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-accuracy"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Runs the trainings that are not in --out yet, and prints a table."""
    _check(arguments)
    make_folder(arguments.out, parents=True)
    runs = []
    for seed in arguments.seeds.split(","):
        for who, measure in ((OURS, _measure_ours), (THEIRS, _measure_example)):
            folder = arguments.out / f"{who}-{arguments.minutes:g}-minutes-seed-{seed}"
            result = folder / "accuracy.json"
            if not result.is_file():
                # Remains of an interrupted training would give this one a head start.
                remove_folder(folder)
                found = measure(arguments, folder, int(seed))
                found |= {"who": who, "seed": int(seed), "minutes": arguments.minutes}
                found |= _origin(arguments, who)
                replace_file(result, to_json(found, indent=1) + "\n")
            runs.append(_read(result, _origin(arguments, who)))
    summary = summarize(runs)
    print(to_json({"runs": runs} | summary) if arguments.json else "\n".join(table(runs)))
    from benchmarks.accuracy_plot import draw

    draw(runs, arguments.out / "accuracy.png")
    print(f"curves: {arguments.out / 'accuracy.png'}", file=sys.stderr)
    return 0


def _origin(arguments: argparse.Namespace, who: str) -> dict[str, Any]:
    """Returns what determines a result, besides seed and minutes."""
    data = {"data": str(arguments.data.resolve())}
    ours = {"recipe": arguments.recipe, "settings": arguments.settings}
    return data | ours if who == OURS else data


def _read(result: Path, origin: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    for name, value in origin.items():
        if found.get(name) != value:
            raise SettingsError(
                f"{result} was measured with {name} {found.get(name)}, not {value}: give "
                "another --out"
            )
    return found


def summarize(runs: list[dict[str, Any]]) -> dict[str, float | bool | None]:
    """Compares the recipe ("ours") with the Keras example.

    Args:
      runs: Runs of both, with `marks` and `curve`, each points [minutes, test accuracy], and
        `final`. Marks are at the same minutes for all runs, with the newest weights at that time.

    Returns:
      gap: Difference of the mean final accuracies, in percentage points.
      ahead: Whether ours has the higher mean accuracy at each mark.
      minutes_to_reach: The mean time at which ours reaches the example's final accuracy; None if
        some run does not reach it.
    """
    ours, theirs = ([r for r in runs if r["who"] == who] for who in (OURS, THEIRS))
    goal = mean(r["final"] for r in theirs)
    above, below = _by_mark(ours), _by_mark(theirs)
    reached = [next((m for m, accuracy in r["curve"] if accuracy >= goal), None) for r in ours]
    times = [minutes for minutes in reached if minutes is not None]
    return {
        "gap": 100 * (mean(r["final"] for r in ours) - goal),
        "ahead": all(mean(above.get(mark, [0])) > mean(below[mark]) for mark in below),
        "minutes_to_reach": mean(times) if len(times) == len(ours) else None,
    }


def table(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of a table: test accuracy by minutes, over all seeds."""
    ours, theirs = ([r for r in runs if r["who"] == who] for who in (OURS, THEIRS))
    yield f"{'minutes':>9}{'ours':>22}{'Keras example':>22}"
    above, below = _by_mark(ours), _by_mark(theirs)
    for mark, accuracies in below.items():
        yield f"{mark:>9g}{_spread(above.get(mark, [])):>22}{_spread(accuracies):>22}"
    finals = [_spread([r["final"] for r in group]) for group in (ours, theirs)]
    yield f"{'the best':>9}{finals[0]:>22}{finals[1]:>22}"
    found, minutes = summarize(runs), runs[0]["minutes"]
    reached = found["minutes_to_reach"]
    reach = "never reach"
    if reached is not None:
        reach = f"reach after {reached:.2g} of {minutes:g} minutes"
    gap = float(found["gap"] or 0)
    yield (
        f"our final accuracy is {abs(gap):.1f} points {'higher' if gap >= 0 else 'lower'} than the "
        f"example's, which we {reach}; ours is {'higher' if found['ahead'] else 'NOT higher'} at "
        "every listed time"
    )


def _by_mark(runs: list[dict[str, Any]]) -> dict[float, list[float]]:
    found: dict[float, list[float]] = {}
    for run in runs:
        for mark, accuracy in run["marks"]:
            found.setdefault(mark, []).append(accuracy)
    return found


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1%}"
    return f"{mean(values):.1%} ({min(values):.1%}..{max(values):.1%})"


def _check(arguments: argparse.Namespace) -> None:
    for split in ("train", "test"):
        if not (arguments.data / split).is_dir():
            raise SettingsError(
                f"--data must be a folder with train/<class>/* and test/<class>/*, but "
                f"{arguments.data / split} does not exist"
            )
    _check_sizes(arguments.data)
    if not all(seed.isdecimal() for seed in arguments.seeds.split(",")):
        raise SettingsError(f"--seeds must be numbers such as 0,1,2. Received: {arguments.seeds!r}")
    if arguments.minutes <= 0:
        raise SettingsError(f"--minutes must be above 0. Received: {arguments.minutes:g}")


def _check_sizes(data: Path) -> None:
    """Checks that all images have one size, as the example requires, before training starts."""
    from PIL import Image, UnidentifiedImageError

    from pipeline.data.decode.pillow_image import FORMATS

    sizes: dict[tuple[int, int], Path] = {}
    for file in (*data.glob("train/*/*"), *data.glob("test/*/*")):
        try:
            with Image.open(file, formats=FORMATS) as image:
                sizes.setdefault(image.size, file)
        except (OSError, UnidentifiedImageError):
            raise SettingsError(f"{file} is not an image that Pillow can read") from None
    if len(sizes) != 1:
        few = ", ".join(f"{w} x {h} ({file})" for (w, h), file in list(sizes.items())[:2])
        raise SettingsError(f"--data must contain images of one size. Found: {few or 'none'}")


def _marks(minutes: float) -> list[float]:
    return [mark for mark in _MARKS if mark < minutes] + [minutes]


def _measure_example(arguments: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    minutes = ",".join(f"{mark:g}" for mark in _marks(arguments.minutes))
    command = python_command("-m", "benchmarks.keras_example_fit")
    data, out = str(arguments.data.resolve()), str(folder.resolve())
    _say(f"the Keras example, seed {seed}: {arguments.minutes:g} minutes, then its evaluation")
    start = ["--start", str(time.time())]
    _call([*command, "train", data, out, "--minutes", minutes, "--seed", str(seed), *start])
    lines = _call([*command, "evaluate", data, out]).splitlines()
    found = {row["weights"]: row["accuracy"] for row in map(json.loads, _rows(lines))}
    marks = [[mark, found[f"{mark:g}"]] for mark in _marks(arguments.minutes)]
    return {"marks": marks, "curve": marks, "final": found.get("best", marks[-1][1])}


def _measure_ours(arguments: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    probe, run = folder / "probe", folder / "run"
    _say(f"ours, seed {seed}: measuring how many steps fit")
    _train(arguments, probe, seed, _PROBE_STEPS)
    rows = [json.loads(line) for line in (probe / "metrics.jsonl").read_text().splitlines()]
    rate = [row["examples_per_second"] for row in rows if row["split"] == "train"][-1]
    batch = _batch_size(arguments)
    seconds = 60 * arguments.minutes
    steps = max(1, int(_MARGIN * rate / batch * max(seconds - _START_S, seconds / 2)))
    _say(f"ours, seed {seed}: {steps:,} steps of {batch} in {arguments.minutes:g} minutes")
    start_s = time.time()
    # A point every 20 s, or ten points in a short benchmark.
    _train(arguments, run, seed, steps, f"checkpoint.every_s={min(20.0, seconds / 10):g}",
           "checkpoint.keep=100000", f"train.max_time_s={seconds:g}")  # fmt: skip
    lines = _call(python_command("-m", "benchmarks.accuracy_points", str(run), str(start_s)))
    rows = [json.loads(line) for line in _rows(lines.splitlines())]
    inside = [row for row in rows if row["kind"] == "point" and row["seconds"] <= seconds]
    curve = [[row["seconds"] / 60, row["accuracy"]] for row in inside]
    if not curve:
        raise SettingsError(
            f"--minutes {arguments.minutes:g} is too short for the first checkpoint"
        )
    marks = [
        [mark, [accuracy for minutes, accuracy in curve if minutes <= mark][-1]]
        for mark in _marks(arguments.minutes)
        if curve[0][0] <= mark
    ]
    best_step = next(row["step"] for row in rows if row["kind"] == "best")
    final = next((r["accuracy"] for r in inside if r["step"] == best_step), curve[-1][1])
    return {"marks": marks, "curve": curve, "final": final, "steps": steps, "batch": batch}


def _train(arguments: argparse.Namespace, folder: Path, seed: int, steps: int, *more: str) -> None:
    command = [*python_command("-m", "jobs.cli", "train"), find_recipe(arguments.recipe),
               *arguments.settings, f"data.path={arguments.data}", f"run.dir={folder}",
               f"seed={seed}", f"train.max_steps={steps}", "checkpoint.every_epochs=null",
               "monitor.report=false", *more]  # fmt: skip
    _call([str(part) for part in command])


def _batch_size(arguments: argparse.Namespace) -> int:
    from pipeline.config import load_config

    return load_config(find_recipe(arguments.recipe), arguments.settings).data.global_batch_size


def _call(command: list[str]) -> str:
    """Runs a program and returns its output."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode not in (0, Stopped.exit_code):  # The latter after train.max_time_s.
        raise PipelineError(f"{' '.join(command[2:5])} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


def _rows(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("{")]


def _say(text: str) -> None:
    print(f"python -m benchmarks: {text}", file=sys.stderr, flush=True)
