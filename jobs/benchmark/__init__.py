"""`vit benchmark WHAT ...`: measurements that the README's figures come from."""

from __future__ import annotations

import argparse
import importlib

PARSES_IN_ORDER = True

# Each is a module of this package with add_arguments(parser) and run(arguments) -> exit code.
BENCHMARKS = {
    "input": "images a second of the input stage, by stages, beside other ways to do it",
    "scaling": "images a second with 1, 2, ... workers, with and without the reduction",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one sub-command a benchmark."""
    which = parser.add_subparsers(dest="benchmark", required=True, metavar="WHAT")
    for name, summary in BENCHMARKS.items():
        module = importlib.import_module(f"jobs.benchmark.{name}")
        sub = which.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)


def run(arguments: argparse.Namespace) -> int:
    """Runs one benchmark."""
    return int(importlib.import_module(f"jobs.benchmark.{arguments.benchmark}").run(arguments))
