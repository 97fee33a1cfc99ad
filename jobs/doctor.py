"""`vit doctor RECIPE [section.key=value ...]`: finds problems before training does."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.config import load_config
from pipeline.doctor import parity
from pipeline.errors import SettingsError
from pipeline.recipes import find_recipe

_EPILOG = """\
A line a check: ok, warning or error, what was found, and what to do. Exit code 0 where there is no
error, else that of the first: 2 settings or the machine, 3 data. Nothing is trained and nothing is
left in the run folder. Up to 256 training images are read and decoded, for 5 s at most. What
training keeps beside the data, the index of TFRecord files and what Keras downloads, is kept here
too. Started as a job is, it looks at every process, and compares the clocks of the hosts:

  vit launch --hosts localhost --processes-per-node 2 -- vit doctor RECIPE

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("recipe", help="name of a shipped recipe, or path of a YAML file")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="settings over the recipe's",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="print one JSON object")
    what.add_argument(
        "--parity", action="store_true", help="show that N workers train what one trains"
    )
    what.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="what --parity starts in each process: train 20 steps as the recipe says, and have "
        "the chief write weights and losses to FILE",
    )
    parser.add_argument(
        "--runtimes",
        help=f"with --parity: some of {','.join(parity.RUNTIMES)} (default: all)",
    )
    parser.add_argument(
        "--workers", help="with --parity: numbers of workers, as 1,2,4 (default: 2)"
    )
    parser.epilog = _EPILOG + parity.EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Examines a recipe, or shows whether runtimes train the same."""
    if arguments.trace is not None or arguments.parity:
        config = load_config(find_recipe(arguments.recipe), arguments.settings)
        if arguments.trace is not None:
            return parity.trace(config, arguments.trace)
        runtimes = arguments.runtimes or ",".join(parity.RUNTIMES)
        return parity.prove_parity(config, runtimes, arguments.workers or "2")
    if arguments.runtimes is not None or arguments.workers is not None:
        raise SettingsError("--runtimes and --workers belong to --parity: add it, or drop them")
    from pipeline.doctor.examine import examine

    return examine(arguments.recipe, arguments.settings, arguments.json)
