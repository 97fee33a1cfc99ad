"""The command `python -m benchmarks WHAT ...`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli import EXIT_CODES, run_module
from pipeline.errors import SettingsError

# Each benchmark is a module of this package with add_arguments(parser) and run(arguments), which
# returns the exit code.
BENCHMARKS = {
    "accuracy": "test accuracy over training time: a recipe and the Keras example",
    "all": "all benchmarks except accuracy and reproducibility, written as a page with a plot",
    "checkpoint": "how long a save stops training; writing and restoring compared with a copy",
    "deterministic": "training steps of train.deterministic compared with the default",
    "elastic": "time lost when a worker is killed, compared with a restart and elastic Horovod",
    "files": "time to the first step, and memory, with a folder of a million images",
    "input": "images/s of the input stage by stage, compared with other implementations",
    "kernels": "operations that replace TensorFlow's own, compared with those",
    "loop": "the training loop compared with a minimal one: cost of metrics and checkpoints",
    "memory": "memory of training; what recomputation and smaller microbatches save and cost",
    "operations": "time of each operation in a training step",
    "prepared": "images/s from phone photographs, and from a set of smaller ones",
    "reduction": "time to sum a tensor over workers, with fitted latency and bandwidth",
    "reproducibility": "SHA-256 of the weights trained on every runtime and number of workers",
    "scaling": "images/s with 1, 2, ... workers, with and without the reduction of gradients",
    "startup": "time from the command to the first step, and what takes it",
    "step": "images/s of training steps, compared with Keras layers and model.fit",
    "waiting": "how long a step waits for input at fractions of the input stage's capacity",
}

_GPU = """on a GPU, with JAX:
  python -m benchmarks.gpu_beside_timm   training steps compared with timm's
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # The processes of a benchmark import modules of this package, which is not installed.
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    # Only the name is parsed here: everything after it belongs to the benchmark.
    what, rest = _parser().parse_args(words[:1]).what, words[1:]
    summary = BENCHMARKS[what]
    program = f"python -m benchmarks {what}"
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    try:
        module = importlib.import_module(f"benchmarks.{what}")
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed. `make .venv/installed-test` installs it"
        print(f"{program}: {message}", file=sys.stderr)
        return SettingsError.exit_code
    module.add_arguments(parser)
    return run_module(program, module, parser.parse_intermixed_args(rest))


def _parser() -> argparse.ArgumentParser:
    """Returns the parser of the command without the arguments of a benchmark."""
    lines = "\n".join(f"  {name:<17}{summary}" for name, summary in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="python -m benchmarks WHAT ...   (WHAT --help shows its arguments)",
        description="Measures the numbers in the documentation.",
        epilog=f"benchmarks:\n{lines}\n\n{_GPU}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=BENCHMARKS, metavar="WHAT", help=argparse.SUPPRESS)
    return parser


def check_counts(arguments: argparse.Namespace, **least: int) -> None:
    """Checks the minimum of numeric arguments, by the argument's name.

    Raises:
      SettingsError: An argument is below its minimum.
    """
    for name, smallest in least.items():
        given = getattr(arguments, name)
        if given is not None and given < smallest:
            option = name.replace("_", "-")
            raise SettingsError(f"--{option} must be at least {smallest}. Received: {given}")
