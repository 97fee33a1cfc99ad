"""`vit report RUN [RUN ...]`"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from jobs.cli import run_process
from jobs.usage import check_paths
from pipeline.errors import PipelineError, SettingsError, without_settings
from pipeline.report.comparison_page import comparison_page
from pipeline.report.write import (
    PredictedExamples,
    gather,
    predict_examples,
    write_page,
    write_report,
)
from pipeline.runs.folder import RunFolder
from pipeline.runs.links import check_links
from pipeline.runs.saved_settings import add_setting_argument, read_settings
from pipeline.runtimes.tensorflow_start import import_tensorflow

_LOG = logging.getLogger(__name__)

_EPILOG = """\
One run: RUN/report.html has its result and settings, curves, confusion matrix, accuracy per class,
the most certain mistakes, augmented examples, command and environment. The best weights go once
through the test split (the validation split where there is none); what they say is kept in
RUN/predictions.npz, so that the next report needs neither the data nor TensorFlow. With
--no-examples the page is made from the run's files alone.

Several runs: one page that compares their results, the settings that differ and their curves. It is
written to comparison.html in the folder that the first run is in.

  vit report runs/digits
  vit report runs/digits runs/digits-2 --out both.html

The page is one file, opens without a network, and is made at the end of training too, unless
monitor.report=false.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the page is written")
    parser.add_argument("--data", help="folder or archive of the data, if it has moved")
    parser.add_argument(
        "--no-examples",
        action="store_true",
        help="do not look at the data: no TensorFlow, and what the run folder lacks is left out",
    )
    add_setting_argument(parser)
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Writes the page and prints where it is."""
    check_paths([arguments.data or ""])
    folders = [RunFolder(path) for path in arguments.runs]
    for folder in folders:
        check_links(folder.path)
    out: Path | None = arguments.out
    if out is not None and not out.parent.is_dir():
        raise SettingsError(f"--out: there is no folder {out.parent}")
    if arguments.data is not None and (arguments.no_examples or len(folders) > 1):
        raise SettingsError(
            "--data is for the examples of one run: give one run, and no --no-examples"
        )
    if len(folders) == 1:
        predicted, left_out = _examples(folders[0], arguments)
        file = write_report(folders[0], out, left_out, predicted)
    else:
        file = _compare(folders, out)
    print(f"report       {file}")
    return 0


def _examples(
    folder: RunFolder, arguments: argparse.Namespace
) -> tuple[PredictedExamples | None, str | None]:
    """The predictions, unless the run folder has them, or a sentence that says why there are none.

    With other data they are made again, whatever the run folder has.
    """
    facts, data = gather(folder), arguments.data
    if facts.predictions is not None and data is None:
        return None, None
    what = "confusion matrix, accuracy per class and examples"
    if arguments.no_examples:
        return None, f"{what}, since --no-examples was given."
    if not facts.best_step:
        return None, f"{what}, since the run is not trained yet."
    try:
        return _predict(folder, data, arguments.given), None
    except PipelineError as error:
        reason = without_settings(str(error))
        if facts.predictions is not None:
            # The page would show the predictions for other data than those that were asked for.
            raise
        _LOG.warning("%s", reason)
        # The page has everything else that the run folder knows.
        return None, f"{what}, since the weights could not be applied to the data: {reason}."


def _predict(folder: RunFolder, data: str | None, given: Sequence[str]) -> PredictedExamples | None:
    config = read_settings(folder, given)
    import_tensorflow()
    from pipeline.runtimes.kinds import start
    from pipeline.training.best_weights import restore_best
    from pipeline.training.data_record import compare_data, data_record
    from pipeline.training.experiment import build
    from pipeline.training.trained_run import open_inspected

    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": data})})
    with closing(start(config.distribute)) as runtime:
        opened = open_inspected(folder, config, runtime)
        for note in opened.source.notes:
            _LOG.info("%s", note)
        changes = compare_data(folder.dataset(), data_record(opened.source)).splits
        for split, change in changes.items():
            _LOG.warning("%s: not the images that the run recorded (%s)", split, change)
        experiment = build(config, runtime, opened)
        restore_best(experiment, folder)
        predicted = predict_examples(experiment, folder)
    if predicted is not None and not predicted.is_own:
        _LOG.warning(
            "confusion matrix, accuracy per class and examples are of %s, and not of the data that "
            "the run recorded. They are not kept in the run folder",
            data or "the data set as it is now",
        )
    return predicted


def _compare(folders: list[RunFolder], out: Path | None) -> Path:
    runs = [gather(folder) for folder in folders]
    alike = Counter(run.name for run in runs)
    named = [replace(run, name=run.folder) if alike[run.name] > 1 else run for run in runs]
    if len({run.name for run in named}) < len(named):
        raise SettingsError("each run can be given once")
    return write_page(comparison_page(named), out or folders[0].path.parent / "comparison.html")


if __name__ == "__main__":
    run_process(["report", *sys.argv[1:]])
