"""`vit prepare SOURCE OUT`"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType

from jobs.cli import run_process
from jobs.usage import check_paths
from pipeline.config import Config, load_config
from pipeline.cores import available_cores
from pipeline.data.encode import Reduction
from pipeline.data.prepare.prepare import prepare
from pipeline.data.prepare.summary import damage_error, summarize
from pipeline.data.prepare.verify import verify
from pipeline.data.sources.find_source import find_source
from pipeline.data.sources.records import read_facts
from pipeline.data.sources.source import open_source
from pipeline.errors import SettingsError
from pipeline.monitor.progress import CountDisplay
from pipeline.recipes import find_recipe
from pipeline.runtimes.tensorflow_start import import_tensorflow

_EPILOG = """\
SOURCE is a folder train/<class>/*, a folder of class folders, a .csv, .jsonl or .json file with
path, label and optionally split, a folder of TFRecord files, the original files of CIFAR or
Fashion-MNIST, or the name of a data set (digits, cifar10, cifar100, fashion_mnist). OUT gets
ArrayRecord shards (NumPy files with --raw) and dataset.json. To train from it, use
data.source=records data.path=OUT. If the command is interrupted, run it again: it continues.

8-bit RGB and grayscale JPEG and PNG files are stored unchanged, unless they are larger than
--max-side, which reduces them and stores them as JPEG. CMYK and 16-bit images, GIF, BMP,
WebP, TIFF, AVIF and JPEG 2000 are converted to PNG; of an animation, the first frame is used.
Unreadable, truncated and empty files, and images with more than data.max_pixels, make the command
fail after all of them have been found. With data.on_bad_image=skip they are left out.
unreadable.txt in OUT lists them. Damaged images that libjpeg can repair are stored, and listed in
repaired.txt. Images that occur in two splits, or under two labels, are stored and reported, and
listed in duplicates.txt and conflicts.txt.
"""

_QUALITY = 92
_SETTING = re.compile(r"[a-z_]+(\.[a-z0-9_]+)+=|seed=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.usage = "vit prepare SOURCE OUT [section.key=value ...] [options]"
    add = parser.add_argument
    add(
        "places",
        nargs="+",
        metavar="SOURCE OUT",
        help="data set and folder to write, and settings that override the recipe's; with "
        "--verify or --preview, OUT alone is enough",
    )
    add(
        "--recipe",
        default="image_folder",
        help="recipe whose settings apply: on_bad_image, validation_fraction, and for --preview "
        "augmentation and patches (default: image_folder)",
    )
    add(
        "--max-side",
        type=int,
        metavar="PIXELS",
        help="reduce images whose longer side has more pixels (default: keep their size)",
    )
    add(
        "--quality",
        type=int,
        metavar="1-100",
        help=f"JPEG quality of reduced images (default: {_QUALITY})",
    )
    add(
        "--raw",
        action="store_true",
        help="store pixels instead of encoded images, for small images of one size; training reads "
        "all of them into memory",
    )
    add("--shard-size", type=int, default=4096, help="examples per shard (default: 4096)")
    add("--processes", type=int, help="number of processes (default: number of cores)")
    add("--verify", action="store_true", help="read every record of OUT and decode every image")
    add(
        "--preview",
        type=Path,
        metavar="FILE.png",
        help="draw examples, augmented and cut into patches",
    )
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prepares, verifies and draws, in this order, whichever was asked for."""
    settings = [text for text in arguments.places if _SETTING.match(text)]
    places = [text for text in arguments.places if not _SETTING.match(text)]
    _check(arguments, places)
    # If the scheduler sends SIGTERM, end like on Ctrl-C: the child processes are ended too.
    signal.signal(signal.SIGTERM, _interrupt)
    config = load_config(find_recipe(arguments.recipe), settings)
    processes = arguments.processes or available_cores()
    if len(places) == 2:
        _prepare(arguments, places, config, settings, processes)
    out = Path(places[-1])
    if arguments.verify:
        _verify(out, processes)
    if arguments.preview is not None:
        import_tensorflow()
        from pipeline.report.training_preview import preview_training

        preview_training(out, config, arguments.preview)
        print(f"preview   {arguments.preview}")
    return 0


def _check(arguments: argparse.Namespace, places: Sequence[str]) -> None:
    uses_prepared = arguments.verify or arguments.preview is not None
    if len(places) not in ((1, 2) if uses_prepared else (2,)):
        raise SettingsError(
            "give a data set and a folder to write: vit prepare SOURCE OUT; or a prepared folder "
            f"and what to do with it: vit prepare OUT --verify. Received: {' '.join(places)}"
        )
    check_paths(places)
    for name in ("shard_size", "processes", "max_side"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise SettingsError(f"--{name.replace('_', '-')} must be at least 1. Received: {value}")
    quality = arguments.quality
    if quality is not None and (arguments.max_side is None or not 1 <= quality <= 100):
        raise SettingsError(
            f"--quality must be 1 to 100, and needs --max-side. Received: {quality}"
        )
    if arguments.raw and arguments.max_side is not None:
        raise SettingsError("give either --raw or --max-side, which stores JPEGs")
    if len(places) == 2 and Path(places[0]).resolve() == Path(places[1]).resolve():
        raise SettingsError(f"OUT must not be the same folder as SOURCE. Received: {places[1]}")
    if arguments.preview is not None and not arguments.preview.parent.is_dir():
        raise SettingsError(f"--preview: there is no folder {arguments.preview.parent}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _prepare(
    arguments: argparse.Namespace,
    places: Sequence[str],
    config: Config,
    settings: Sequence[str],
    processes: int,
) -> None:
    source, out = places[0], Path(places[1])
    reduction = None
    if arguments.max_side is not None:
        reduction = Reduction(arguments.max_side, arguments.quality or _QUALITY)
    is_chosen = any(setting.startswith("data.source=") for setting in settings)
    data = config.data.model_copy(
        update=find_source(source, config.data.source if is_chosen else None)
    )
    opened = open_source(data, config.seed)
    for note in opened.notes:
        print(note)
    total = sum(split.num_examples for split in opened.splits.values())
    with closing(CountDisplay(total, "images")) as display:
        facts = prepare(
            opened,
            out,
            data,
            shard_size=arguments.shard_size,
            processes=processes,
            on_done=display.add,
            reduction=reduction,
            raw=arguments.raw,
        )
    print(summarize(facts, out))


def _verify(out: Path, processes: int) -> None:
    total = sum(split.examples for split in read_facts(out).splits.values())
    with closing(CountDisplay(total, "images")) as display:
        _, problems = verify(out, processes, display.add)
    if problems:
        raise damage_error(out, problems)
    print(f"{out}: all {total:,} images are intact")


if __name__ == "__main__":
    run_process(["prepare", *sys.argv[1:]])
