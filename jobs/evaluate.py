"""`vit evaluate RUN`"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cli import run_process
from jobs.run_settings import add_setting_argument
from jobs.usage import check_paths
from pipeline.api.evaluation import open_evaluation
from pipeline.errors import SettingsError
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics_file import shows_top_5
from pipeline.runs.saved_settings import read_settings
from pipeline.storage.folders import make_folder
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    from pipeline.report.evaluation import Evaluation

_LOG = logging.getLogger(__name__)

_EPILOG = """\
--data evaluates on another data set, or on the run's own where it has moved: a folder with
train/, validation/, test/ and in each a folder a class, or class folders alone, or what `vit
prepare` takes. Classes are matched by their names; it may have some of them only. Details are
printed then: classes, the worst confusions, and the calibration error (15 bins, Guo et al. 2017).
Class folders alone are one split, "all"; but if they are those that the run was trained on, they
have the run's own validation split.

The run's own data set must have the classes that the run recorded, in the same order. If its images
have changed, a line on stderr says so, and "same_images" in the output of --json is false.

Only the run folder and the data set are needed, whatever trained the run. Evaluation uses the
devices of this machine; under `vit launch` or horovodrun, all processes share the images.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="only this one; default: validation, and test where there is one; all: class folders "
        "alone",
    )
    parser.add_argument("--data", help="another data set, or where the run's own is now")
    parser.add_argument(
        "--details", action="store_true", help="classes, confusions, calibration of the run's data"
    )
    parser.add_argument("--every-class", action="store_true", help="not the 20 worst alone")
    parser.add_argument(
        "--html", type=Path, metavar="FILE.html", help="draw the confusion matrix and the rest"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a split")
    add_setting_argument(parser)
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Evaluates the weights that were best on validation."""
    check_paths([arguments.data or ""])
    folder = RunFolder(arguments.run)
    config = read_settings(folder, arguments.given)
    details = arguments.details or arguments.every_class or arguments.html is not None
    with open_evaluation(folder, config, arguments.data, _LOG.info) as evaluation:
        found = []
        splits = evaluation.choose(arguments.split)
        for row, split in evaluation.evaluate(
            splits, details=details or arguments.data is not None
        ):
            if evaluation.runtime.is_chief:
                _print_split(arguments, row, split, len(evaluation.classes))
            found += [split] if split is not None else []
        if arguments.html is not None:
            evaluation.on_chief(lambda: _draw(arguments, folder, found))
    return 0


def _print_split(
    arguments: argparse.Namespace, row: dict[str, Any], split: Evaluation | None, num_classes: int
) -> None:
    if arguments.json:
        print(to_json(row if split is None else row | split.to_json()))
        return
    print(_line(row, num_classes))
    if split is not None:
        print("\n".join([*split.lines(arguments.every_class), ""]))


def _draw(arguments: argparse.Namespace, folder: RunFolder, found: list[Evaluation]) -> None:
    from pipeline.report.evaluation_page import evaluation_page

    name = arguments.data or "its own data"
    page = evaluation_page(
        f"{folder.path.name} on {name}",
        [(one.predictions, one.classes, one.metrics, one.bins) for one in found],
    )
    try:
        make_folder(arguments.html.parent, parents=True)
        replace_file(arguments.html, page)
    except OSError as error:
        raise SettingsError(f"cannot write {arguments.html}: {error.strerror}") from None
    _LOG.info("%s", arguments.html)


def _line(row: dict[str, Any], num_classes: int) -> str:
    top_5 = f"top-5 {row['top_5_accuracy']:.2%}  " if shows_top_5(num_classes) else ""
    skipped = row["skipped_examples"]
    without = f", {skipped:,} unreadable image(s) not counted" if skipped else ""
    return (
        f"{row['split']:<10}  {row['examples']:>8,} images  accuracy {row['accuracy']:.2%}  "
        f"{top_5}loss {row['loss']:.4f}  (weights of step {row['step']}{without})"
    )


if __name__ == "__main__":
    run_process(["evaluate", *sys.argv[1:]])
