"""`python -m benchmarks startup`"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.command import check_counts
from pipeline.errors import PipelineError, Stopped
from pipeline.recipes import find_recipe
from pipeline.runtimes.interpreter import python_command
from pipeline.strict_json import to_json

_EPILOG = """\
From the command to the beginning of the first step, of a new run and of one that goes on:
  TensorFlow   its import and Keras's
  tracing      the first call of the training graph, XLA's compilation in its first step included;
               without what the second step takes
  input graph  tracing of the input stage, and its iterator, which has read nothing yet
  ours         the rest: Python, settings, data, model, checkpoint, run folder, the first batch
Beside them, how soon `vit --help` and a wrong setting are answered, and an empty Python.
Medians of --repeats starts.
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
    starts: dict[str, list[dict[str, float]]] = {"a new run": [], "a run that goes on": []}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory(prefix="vit-startup-") as folder:
            for times in starts.values():
                times.append(_start([recipe, *arguments.settings, f"run.dir={folder}/run"]))
    vit = python_command("-m", "jobs.cli")
    answers = {
        "vit --help": [*vit, "--help"],
        "a wrong setting": [*vit, "train", recipe, "optim.base_lr=fast"],
        "python -c pass": python_command("-c", "pass"),
    }
    for name, command in answers.items():
        starts[name] = [{"seconds": _answer(command)} for _ in range(2 * arguments.repeats + 1)]
    rows = [_row(name, times) for name, times in starts.items()]
    print("\n".join(map(to_json, rows) if arguments.json else _table(rows)))
    return 0


def _row(name: str, times: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of the parts, and the spread of the whole."""
    wholes = [one["seconds"] for one in times]
    parts = {part: median(one[part] for one in times) for part in times[0]}
    return {"what": name, **parts, "least": min(wholes), "most": max(wholes)}


def _start(settings: list[str]) -> dict[str, float]:
    """Seconds of the parts of one start, which stops itself after its first stretch of steps."""
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
    }


def _answer(command: list[str]) -> float:
    start_s = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - start_s


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'seconds':<20}{'in all':>8}{''.join(_PARTS.values())}   spread"
    for row in rows:
        parts = "".join(
            f"{row[part]:>{len(heading)}.2f}" if part in row else " " * len(heading)
            for part, heading in _PARTS.items()
        )
        spread = f"{row['least']:.2f} to {row['most']:.2f}"
        yield f"{row['what']:<20}{row['seconds']:>8.2f}{parts}   {spread}"
