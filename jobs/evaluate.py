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
from pipeline.api.evaluation import evaluation_settings, open_evaluation
from pipeline.errors import SettingsError
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics_file import shows_top_5
from pipeline.storage.folders import make_folder
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    from pipeline.report.prediction_metrics import PredictionMetrics

_LOG = logging.getLogger(__name__)

_EPILOG = """\
--data evaluates on another data set, or on the run's own data set if it has moved. DATA is a folder
that contains train/, validation/ or test/ with one folder per class, or a folder of class folders,
or any source that `vit prepare` accepts. Classes are matched by name; some may be missing. With
--data, details are printed: classes, the worst confusions, and the calibration error (15 bins, Guo
et al. 2017). A folder of class folders is a single split named "all", unless it is the data that
the run was trained on: then the run's own validation split is used.

The run's own data set must have the classes that the run recorded, in the same order. If its images
have changed, a message is written to standard error, and "same_images" in the output of --json is
false.

Only the run folder and the data set are needed, whatever runtime trained the run. Evaluation uses
the devices of this machine. With `vit launch` or horovodrun, the images are divided among all
processes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="evaluate only this split (default: validation, and test if there is one); all: a "
        "folder of class folders",
    )
    parser.add_argument("--data", help="another data set, or the new place of the run's own")
    parser.add_argument(
        "--details", action="store_true", help="print classes, confusions and calibration"
    )
    parser.add_argument(
        "--every-class", action="store_true", help="print all classes, not only the 20 worst"
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE.html",
        help="write a page with the confusion matrix and all details",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per split")
    add_setting_argument(parser)
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Evaluates the weights with the best validation result."""
    check_paths([arguments.data or ""])
    folder = RunFolder(arguments.run)
    config = evaluation_settings(
        folder, arguments.given, arguments.data is not None, trust_code=arguments.trust_code
    )
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
    arguments: argparse.Namespace,
    row: dict[str, Any],
    split: PredictionMetrics | None,
    num_classes: int,
) -> None:
    if arguments.json:
        print(to_json(row if split is None else row | split.to_json()))
        return
    print(_line(row, num_classes))
    if split is not None:
        print("\n".join([*split.lines(arguments.every_class), ""]))


def _draw(arguments: argparse.Namespace, folder: RunFolder, found: list[PredictionMetrics]) -> None:
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
