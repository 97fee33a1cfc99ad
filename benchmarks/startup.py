"""`python -m benchmarks startup`

pyperf times whole commands. It can neither split a start into phases nor run a second command after
each value, so the starts of a new run and of a resumed run are measured by startup_phases.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pyperf

from benchmarks.command import check_counts
from pipeline.errors import PipelineError, Stopped
from pipeline.recipes import find_recipe
from pipeline.runtimes.interpreter import python_command
from pipeline.strict_json import to_json

_EPILOG = """\
Measures the time from the command to the first step, for a new run and for a resumed run:
  TensorFlow   its import and Keras's
  tracing      the first call of the training graph, XLA's compilation in its first step included;
               without what the second step takes
  input graph  tracing of the input stage, and its iterator, which has read nothing yet
  ours         the rest: Python, settings, data, model, checkpoint, run folder, the first batch
For comparison, it also measures `vit --help`, a run with a wrong setting, and an empty Python
process. The table shows medians of --repeats starts.
"""

_PARTS = {
    "tensorflow_s": "  TensorFlow",
    "tracing_s": "  tracing",
    "input_graph_s": "  input graph",
    "ours_s": "   ours",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("recipe", nargs="?", default="digits", help="default: digits")
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures, and prints a table."""
    check_counts(arguments, repeats=1)
    recipe = str(find_recipe(arguments.recipe))
    starts: dict[str, list[dict[str, float]]] = {"a new run": [], "a resumed run": []}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory(prefix="vit-startup-") as folder:
            for times in starts.values():
                times.append(start([recipe, *arguments.settings, f"run.dir={folder}/run"]))
    vit = python_command("-m", "jobs.cli")
    answers = {
        "vit --help": [*vit, "--help"],
        "a wrong setting": [*vit, "train", recipe, "optim.base_lr=fast"],
        "python -c pass": python_command("-c", "pass"),
    }
    for name, command in answers.items():
        starts[name] = [{"seconds": value} for value in _command_times(command, arguments.repeats)]
    rows = [_row(name, times) for name, times in starts.items()]
    print("\n".join(map(to_json, rows) if arguments.json else _table(rows)))
    return 0


def _row(name: str, times: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the parts, and the spread of the whole."""
    wholes = [one["seconds"] for one in times]
    parts = {part: median(one[part] for one in times) for part in times[0]}
    return {"what": name, **parts, "least": min(wholes), "most": max(wholes)}


def start(settings: list[str]) -> dict[str, float]:
    """Starts `vit train`, which stops itself after its first stretch of steps.

    Args:
      settings: Its arguments. If the run folder has a run, it is resumed.

    Returns:
      The seconds until the first step, those of its parts, and `peak_mb`, the most memory that the
      process had.
    """
    command = python_command("-m", "benchmarks.startup_phases", *settings)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != Stopped.exit_code:
        raise PipelineError(f"the start failed:\n{done.stdout}{done.stderr}")
    at = json.loads(done.stdout.splitlines()[-1])
    tensorflow_s = at["import_ends"] - at["import_begins"]
    tracing_s = at["stretch_ends"] - at["stretch_begins"] - at["steps"] - at["input"]
    input_graph_s = at["input_graph_ends"] - at["input_graph_begins"]
    whole_s = at["stretch_ends"] - at["steps"]
    return {
        "seconds": whole_s,
        "tensorflow_s": tensorflow_s,
        "tracing_s": tracing_s,
        "input_graph_s": input_graph_s,
        "ours_s": whole_s - tensorflow_s - tracing_s - input_graph_s,
        "peak_mb": at["peak_mb"],
    }


def _command_times(command: list[str], processes: int) -> tuple[float, ...]:
    """Seconds of a command by `pyperf command`: two values per process, after one warm-up."""
    # pyperf refuses commands that fail, and the answer to a wrong setting is exit code 2.
    answered = ["sh", "-c", '"$@" || exit 0', "sh", *command]
    options = [f"--processes={processes}", "--values=2", "--warmups=1", "--loops=1", "--copy-env"]
    with tempfile.TemporaryDirectory(prefix="vit-startup-") as folder:
        file = Path(folder) / "times.json"
        done = subprocess.run(
            [*python_command("-m", "pyperf"), "command", *options, "-o", file, "--", *answered],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise PipelineError(f"pyperf could not time a command:\n{done.stdout}{done.stderr}")
        values: tuple[float, ...] = pyperf.Benchmark.load(str(file)).get_values()
    return values


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'seconds':<20}{'in all':>8}{''.join(_PARTS.values())}   spread"
    for row in rows:
        parts = "".join(
            f"{row[part]:>{len(heading)}.2f}" if part in row else " " * len(heading)
            for part, heading in _PARTS.items()
        )
        spread = f"{row['least']:.2f} to {row['most']:.2f}"
        yield f"{row['what']:<20}{row['seconds']:>8.2f}{parts}   {spread}"
