"""`vit train RECIPE [section.key=value ...]`"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from jobs.cli import run_process
from pipeline.api.start import Start, finished_row
from pipeline.api.training import describe_run, train_run
from pipeline.config import all_settings, load_config
from pipeline.monitor.bars import format_number
from pipeline.recipes import find_recipe
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics_file import shows_top_5
from pipeline.runtimes.environment import this_place

_LOG = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments, and lists every setting in its help."""
    parser.add_argument("recipe", help="name of a shipped recipe, or path of a YAML file")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="settings that override the recipe's",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, check the run folder, and print settings, model, speed and memory, "
        "without training or writing",
    )
    lines = [
        f"  {s.key}  {s.type}, default {s.default_text}\n      {s.doc}" for s in all_settings()
    ]
    parser.epilog = "settings:\n" + "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Trains, resumes, or prints the result of a finished run."""
    config = load_config(find_recipe(arguments.recipe), arguments.settings)
    folder = RunFolder(config.run_dir)
    folder.check(config)
    if arguments.dry_run:
        if (description := describe_run(config, folder, _say)) is not None:
            print(description)
        return 0
    if this_place().world_size == 1 and (row := finished_row(folder)) is not None:
        # Answered without TensorFlow, which takes seconds to import.
        print("this run is done; name another folder with run.dir=FOLDER to train again")
        _print_result(folder, row)
        return 0
    command = ("vit", "train", arguments.recipe, *arguments.settings)
    train_run(
        Start(config, folder, command, _say, _print_result, show_progress=not arguments.quiet)
    )
    return 0


def _say(text: str) -> None:
    _LOG.info("%s", text, extra={"is_plain": True})


def _print_result(folder: RunFolder, row: Mapping[str, Any]) -> None:
    result = "nothing is left to train, and the run has no metrics"
    if row:
        top_5 = ""
        if shows_top_5(len(folder.dataset()["classes"])):
            top_5 = f"top-5 {format_number(row['top_5_accuracy'], '.2%')}, "
        accuracy, loss = format_number(row["accuracy"], ".2%"), format_number(row["loss"], ".4f")
        result = f"{row['split']} accuracy {accuracy}, {top_5}loss {loss}"
    report = f"report       {folder.report}\n" if folder.report.is_file() else ""
    print(
        f"{result}\n"
        f"run folder   {folder.path}\n"
        f"{report}"
        f"curves       vit board {shlex.quote(str(folder.path))}"
    )


if __name__ == "__main__":
    run_process(["train", *sys.argv[1:]])
