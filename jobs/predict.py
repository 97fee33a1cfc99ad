"""`vit predict MODEL IMAGE...`"""

from __future__ import annotations

import argparse
import csv
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli import run_process
from jobs.run_settings import add_setting_argument
from jobs.usage import check_paths
from pipeline.api.prediction import as_prediction, check_top, load_predictor
from pipeline.errors import DataError, SettingsError
from pipeline.printable import printable
from pipeline.storage.folders import make_folder
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    from pipeline.report.prediction_gallery import GalleryEntry

_LOG = logging.getLogger(__name__)

Top = Sequence[tuple[str, float]]  # Names and probabilities, the most probable class first.

_EPILOG = """\
MODEL is a run folder, whose best weights are used, or a file or folder that `vit export` wrote, in
any format. IMAGE is a file, a folder (including all images below it), or a quoted pattern such as
'photos/**/*.jpg'. Results are printed in this order. Images that cannot be read are reported on
standard error and skipped, and the exit code is 3.

For a single image, each class is printed on its own line. For several images, each has one line
with the two most probable classes. --json prints lines of the form {"image": ..., "top": [{"class":
..., "probability": ...}, ...]}. --csv prints the columns image, class_1, probability_1, class_2,
probability_2, ...
"""

# The start of text that spreadsheets evaluate, including full-width characters.
_FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20\t\r]")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="run folder, or an exported model"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file, folder or pattern")
    parser.add_argument(
        "--top", type=int, default=5, help="number of classes per image (default: 5)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per image")
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.add_argument(
        "--gallery",
        type=Path,
        metavar="FILE.html",
        help="write a page with the images and predictions",
    )
    add_setting_argument(parser)
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prints the most probable classes of each image; reports and skips unreadable images."""
    check_paths(arguments.images)
    check_top(arguments.top, "--top")
    if arguments.gallery is not None and arguments.gallery.is_dir():
        raise SettingsError(f"--gallery {arguments.gallery} is a folder: give a file")
    model = load_predictor(
        arguments.model, arguments.given, _LOG.info, trust_code=arguments.trust_code
    )
    from pipeline.export.file_predictions import find_images, predict_files
    from pipeline.report.prediction_gallery import Shown, gallery_entry

    files = list(find_images(arguments.images))
    write = _writer(arguments, len(model.metadata.classes), alone=len(files) == 1)
    failed, entries = 0, []
    for answer in predict_files(model, files):
        prediction = as_prediction(model, answer, arguments.top)
        path = printable(prediction.image)
        if prediction.problem is None:
            write(path, prediction.top)
        else:
            _LOG.warning("%s", _problem(path, printable(prediction.problem)))
            failed += 1
        if arguments.gallery is not None:
            shown = Shown(path, answer.pixels, list(prediction.top), prediction.problem)
            entries.append(gallery_entry(shown))
    if arguments.gallery is not None:
        _draw(arguments, entries, failed)
    return DataError.exit_code if failed else 0


def _problem(path: str, problem: str) -> str:
    """Returns one line that names the file, which errors of data already do."""
    return problem if path in problem else f"cannot read {path}: {problem}"


def _writer(arguments: argparse.Namespace, classes: int, alone: bool) -> Callable[[str, Top], None]:
    """Returns the function that prints the result for one image."""
    if arguments.json:
        return _write_json
    if arguments.csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        count = min(arguments.top, classes)
        names = [f"{what}_{i + 1}" for i in range(count) for what in ("class", "probability")]
        rows.writerow(["image", *names])
        return lambda path, top: rows.writerow(
            [as_cell(path), *(v for name, p in top for v in (as_cell(name), p))]
        )
    return _write_block if alone else _write_line


def as_cell(text: str) -> str:
    """Escapes text that a spreadsheet would evaluate as a formula, with a leading apostrophe.

    Such text that already starts with apostrophes gets one more, so removing the first restores it.

    References:
      OWASP, CSV injection: https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{text}" if _FORMULA.match(text) else text


def _write_json(path: str, top: Top) -> None:
    said = [{"class": name, "probability": p} for name, p in top]
    print(to_json({"image": path, "top": said}))


def _write_block(path: str, top: Top) -> None:
    print(path)
    print("\n".join(f"  {p:7.2%}  {name}" for name, p in top))


def _write_line(path: str, top: Top) -> None:
    # The path is printed last, because the longest path is not known.
    print("  ".join(f"{p:7.2%}  {name:<16.16}" for name, p in top[:2]) + f"  {path}")


def _draw(arguments: argparse.Namespace, entries: list[GalleryEntry], failed: int) -> None:
    from pipeline.report.prediction_gallery import gallery_page

    about = f"{len(entries) - failed:,} images, predictions by {arguments.model}"
    about += f"; {failed:,} could not be read" if failed else ""
    try:
        make_folder(arguments.gallery.parent, parents=True)
        page = gallery_page(f"Predictions of {arguments.model.name}", f"{about}.", entries)
        replace_file(arguments.gallery, page)
    except OSError as error:
        raise SettingsError(f"cannot write {arguments.gallery}: {error.strerror}") from None
    _LOG.info("%s", arguments.gallery)


if __name__ == "__main__":
    run_process(["predict", *sys.argv[1:]])
