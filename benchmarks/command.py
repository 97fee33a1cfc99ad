"""The command `python -m benchmarks WHAT ...`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from jobs.cli import EXIT_CODES, run_module
from pipeline.errors import SettingsError

# Each is a module of this package with add_arguments(parser) and run(arguments) -> exit code.
BENCHMARKS = {
    "accuracy": "test accuracy against minutes: a recipe beside the Keras example",
    "all": "all but accuracy, written as a page with a picture",
    "checkpoint": "how long a save stops training; writing and restoring beside a plain copy",
    "input": "images a second of the input stage, by stages, beside other ways to do it",
    "kernels": "pieces of a training step that are not TensorFlow's own, beside those that are",
    "loop": "the training loop beside a bare one: what rows, TensorBoard and checkpoints cost",
    "memory": "what training takes of memory, and what recomputing and smaller parts save and cost",
    "operations": "what the time of a training step goes by, operation by operation",
    "reduction": "seconds to sum a tensor over workers, and latency and bandwidth fitted to them",
    "scaling": "images a second with 1, 2, ... workers, with and without the reduction",
    "startup": "from the command to the first step, and what takes so long",
    "step": "images a second of training steps, beside Keras's layers and model.fit",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Only the name is parsed here: everything after it belongs to the benchmark.
    what, rest = _parser().parse_args(words[:1]).what, words[1:]
    summary = BENCHMARKS[what]
    program = f"python -m benchmarks {what}"
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module = importlib.import_module(f"benchmarks.{what}")
    module.add_arguments(parser)
    return run_module(program, module, parser.parse_intermixed_args(rest))


def _parser() -> argparse.ArgumentParser:
    """The parser of the command without the arguments of a benchmark."""
    lines = "\n".join(f"  {name:<12}{summary}" for name, summary in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="python -m benchmarks WHAT ...   (WHAT --help: its arguments)",
        description="Measures the figures that the documentation states.",
        epilog=f"benchmarks:\n{lines}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=BENCHMARKS, metavar="WHAT", help=argparse.SUPPRESS)
    return parser


def check_counts(arguments: argparse.Namespace, **least: int) -> None:
    """SettingsError where a number that was given is below its least, by the argument's name."""
    for name, smallest in least.items():
        given = getattr(arguments, name)
        if given is not None and given < smallest:
            raise SettingsError(f"--{name} must be at least {smallest}. Received: {given}")
