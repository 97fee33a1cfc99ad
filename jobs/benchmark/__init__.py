"""`vit benchmark WHAT ...`: measurements that the README's figures come from."""

from __future__ import annotations

import argparse
import importlib

from pipeline.errors import SettingsError

PARSES_IN_ORDER = True

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmark's name; its own arguments are read once that is known."""
    parser.add_argument("benchmark", choices=BENCHMARKS, metavar="WHAT")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    lines = "\n".join(f"  {name:<12}{summary}" for name, summary in BENCHMARKS.items())
    parser.epilog = f"benchmarks (vit benchmark WHAT --help: its arguments):\n{lines}"


def run(arguments: argparse.Namespace) -> int:
    """Runs one benchmark."""
    module = importlib.import_module(f"jobs.benchmark.{arguments.benchmark}")
    summary = BENCHMARKS[arguments.benchmark]
    parser = argparse.ArgumentParser(
        prog=f"vit benchmark {arguments.benchmark}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return int(module.run(parser.parse_intermixed_args(arguments.arguments)))


def check_counts(arguments: argparse.Namespace, **least: int) -> None:
    """SettingsError where a number that was given is below its least, by the argument's name."""
    for name, smallest in least.items():
        given = getattr(arguments, name)
        if given is not None and given < smallest:
            raise SettingsError(f"--{name} must be at least {smallest}. Received: {given}")
