"""`vit evaluate RUN`"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cli import run_process
from jobs.usage import check_paths
from pipeline.errors import SettingsError
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics_file import shows_top_5
from pipeline.runs.saved_settings import add_setting_argument, read_settings
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.storage.folders import make_folder
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    from pipeline.report.evaluation import Evaluation
    from pipeline.runtimes.runtime import Runtime
    from pipeline.training.experiment import Experiment

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
    config, recorded_data = read_settings(folder, arguments.given), folder.dataset()
    import_tensorflow()
    from pipeline.data.images import bad_images_named
    from pipeline.runtimes.agreement import on_all, on_chief
    from pipeline.runtimes.kinds import start
    from pipeline.training.best_weights import restore_best
    from pipeline.training.experiment import build
    from pipeline.training.trained_run import open_inspected

    with (
        closing(start(config.distribute)) as runtime,
        runtime.noticing_lost_peers(),
        bad_images_named(),
    ):
        opened = open_inspected(folder, config, runtime, arguments.data)
        if runtime.is_chief:
            for note in opened.source.notes:
                print(f"vit evaluate: {note}", file=sys.stderr)
        experiment = build(config, runtime, opened)
        step = on_all(runtime, lambda: restore_best(experiment, folder))
        splits, found = _splits(arguments, experiment), []
        same = on_chief(runtime, lambda: _compare(experiment, splits, recorded_data))
        for split in splits:
            evaluation = _evaluate(arguments, experiment, runtime, split, step, same[split])
            found += [evaluation] if evaluation is not None else []
        if arguments.html is not None:
            on_chief(runtime, lambda: _draw(arguments, folder, found))
        runtime.barrier()
    return 0


def _splits(arguments: argparse.Namespace, experiment: Experiment) -> list[str]:
    there = experiment.source.splits
    asked = [arguments.split] if arguments.split else ["validation", "test", "all"]
    found = [split for split in asked if split in there]
    if not found:
        raise SettingsError(
            f"the data has no split {' or '.join(asked)}: it has {', '.join(there)}. Choose one "
            "with --split"
        )
    return found


def _compare(
    experiment: Experiment, splits: list[str], recorded: dict[str, Any]
) -> dict[str, bool | None]:
    """Whether each split has the images that the run recorded, and a line on stderr if it has not.

    None: the run is of a version that recorded the number of images only, which is the same.
    """
    from pipeline.training.data_record import compare_data, data_record

    changes = compare_data(recorded, data_record(experiment.source, splits)).splits
    for split in splits:
        if split in changes:
            print(
                f"vit evaluate: {split}: not the images that the run recorded ({changes[split]})",
                file=sys.stderr,
            )
    known = recorded.get("fingerprints", {})
    return {s: False if s in changes else True if s in known else None for s in splits}


def _evaluate(
    arguments: argparse.Namespace,
    experiment: Experiment,
    runtime: Runtime,
    split: str,
    step: int,
    same_images: bool | None,
) -> Evaluation | None:
    """Evaluates and prints one split; its details where they are asked for."""
    from pipeline.report.evaluation import evaluate_predictions
    from pipeline.training.metrics import check_counted
    from pipeline.training.prediction_pass import predict

    count = experiment.source.splits[split].num_examples
    row: dict[str, Any] = {"step": step, "split": split, "same_images": same_images}
    evaluation = None
    details = arguments.details or arguments.every_class or arguments.html is not None
    if arguments.data is not None or details:
        predictions = predict(experiment, split)
        check_counted(split, count, len(predictions.label))
        evaluation = evaluate_predictions(predictions, experiment.source.classes)
        row["examples"] = len(predictions.label)
        row["skipped_examples"] = count - len(predictions.label)
        row |= evaluation.to_json() if arguments.json else evaluation.metrics
    else:
        row |= experiment.evaluate(split)
    if runtime.is_chief:
        print(to_json(row) if arguments.json else _line(row, len(experiment.source.classes)))
        if evaluation is not None and not arguments.json:
            print("\n".join([*evaluation.lines(arguments.every_class), ""]))
    return evaluation


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
    print(f"vit evaluate: {arguments.html}", file=sys.stderr)


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
