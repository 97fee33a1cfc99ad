"""`vit report RUN [RUN ...]`"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs.cli import run_process
from jobs.run_settings import add_setting_argument
from jobs.usage import check_paths
from pipeline.errors import SettingsError
from pipeline.report.comparison import write_comparison
from pipeline.report.run_examples import find_examples
from pipeline.report.write import write_report
from pipeline.runs.folder import RunFolder
from pipeline.runs.links import check_links

_EPILOG = """\
One run: RUN/report.html contains its result and settings, curves, confusion matrix, accuracy per
class, the mistakes made with the highest confidence, augmented examples, command and environment.
The best weights are applied once to the test split (or to the validation split if there is none).
The predictions are saved in RUN/predictions.npz, so the next report needs neither the data nor
TensorFlow. With --no-examples, only the files of the run are used.

Several runs: one page compares their results, the settings that differ, and their curves. It is
written to comparison.html in the parent folder of the first run.

  vit report runs/digits
  vit report runs/digits runs/digits-2 --out both.html

The page is a single file and opens without a network. It is also written at the end of training,
unless monitor.report=false.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    add("--out", type=Path, metavar="FILE", help="file to write the page to")
    add("--data", help="folder or archive of the data, if it has moved")
    add(
        "--no-examples",
        action="store_true",
        help="do not read the data or import TensorFlow; leave out what the run folder lacks",
    )
    add_setting_argument(parser)
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    check_paths([arguments.data or ""])
    folders = [RunFolder(path) for path in arguments.runs]
    for folder in folders:
        check_links(folder.path)
    out: Path | None = arguments.out
    if out is not None and not out.parent.is_dir():
        raise SettingsError(f"--out: there is no folder {out.parent}")
    if arguments.data is not None and (arguments.no_examples or len(folders) > 1):
        raise SettingsError(
            "--data names the data of one run: give one run, and leave out --no-examples"
        )
    if len(folders) == 1:
        predicted, left_out = find_examples(
            folders[0],
            arguments.data,
            arguments.given,
            use_data=not arguments.no_examples,
            trust_code=arguments.trust_code,
        )
        file = write_report(folders[0], out, left_out, predicted)
    else:
        file = write_comparison(folders, out)
    print(f"report       {file}")
    return 0


if __name__ == "__main__":
    run_process(["report", *sys.argv[1:]])
