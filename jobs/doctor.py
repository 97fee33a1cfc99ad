"""`vit doctor RECIPE [section.key=value ...]`"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.config import load_config
from pipeline.doctor import parity_check, parity_runs
from pipeline.errors import SettingsError
from pipeline.recipes import find_recipe

_EPILOG = """\
Each check prints one line: ok, warning or error, the finding, and what to do. The exit code is 0 if
there is no error, and otherwise that of the first error: 2 for settings or the machine, 3 for data.
Nothing is trained, and no file is left in the run folder. Up to 256 training images are read and
decoded, for at most 5 s. Files that training keeps beside the data (the index of TFRecord files,
and downloads of Keras) are kept. Started like a job, the command checks every process, and compares
the clocks of the hosts:

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
        help="settings that override the recipe's",
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
        help="used by --parity in each process: train the recipe for 20 steps, and let the chief "
        "write weights (or their hashes) and losses to FILE",
    )
    parser.add_argument(
        "--runtimes",
        help=f"with --parity: a selection of {','.join(parity_runs.RUNTIMES)} (default: all)",
    )
    parser.add_argument(
        "--workers", help="with --parity: numbers of workers, such as 1,2,4 (default: 2)"
    )
    parser.epilog = _EPILOG + parity_check.EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Checks a recipe, or shows whether all runtimes train the same weights."""
    if arguments.trace is not None or arguments.parity:
        config = load_config(find_recipe(arguments.recipe), arguments.settings)
        if arguments.trace is not None:
            return parity_runs.trace(config, arguments.trace)
        return parity_check.prove_parity(config, arguments.runtimes, arguments.workers)
    if arguments.runtimes is not None or arguments.workers is not None:
        raise SettingsError("--runtimes and --workers need --parity: add it, or leave them out")
    from pipeline.doctor.examine import examine

    return examine(arguments.recipe, arguments.settings, arguments.json)
