"""`vit prepare SOURCE OUT`"""

from __future__ import annotations

import argparse
import re
import shlex
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
from pipeline.data.prepare.prepare import REPAIRED, UNREADABLE, prepare
from pipeline.data.prepare.set_facts import CONFLICTS, DUPLICATES
from pipeline.data.prepare.verify import verify
from pipeline.data.sources.find_source import find_source
from pipeline.data.sources.records import FACTS, SetFacts, read_facts
from pipeline.data.sources.source import open_source
from pipeline.data.split import first_of_classes
from pipeline.errors import DataError, SettingsError
from pipeline.monitor.progress import CountDisplay
from pipeline.recipes import find_recipe
from pipeline.runtimes.tensorflow_start import import_tensorflow

_EPILOG = """\
SOURCE is a folder train/<class>/*, a folder of class folders, a .csv, .jsonl or .json file with
path, label and optionally split, a folder of TFRecord files, CIFAR's or Fashion-MNIST's own files,
or the name of a data set (digits, cifar10, cifar100, fashion_mnist). OUT gets ArrayRecord shards
and dataset.json; train from it with data.source=records data.path=OUT. Stopped in the middle, the
same command goes on.

RGB and grey JPEG and PNG of 8 bits are stored as they are. CMYK, 16 bits, GIF, BMP, WebP, TIFF,
AVIF and JPEG 2000 are converted to PNG; of animations the first frame is taken. Unreadable,
truncated, empty files and those with more than data.max_pixels end the command once all are found,
or with data.on_bad_image=skip are left out; unreadable.txt in OUT names them. Images with damage
that libjpeg repairs are stored, and named in repaired.txt. Images that two splits share, and images
under two labels, are stored, reported, and named in duplicates.txt and conflicts.txt.
"""

_SETTING = re.compile(r"[a-z_]+(\.[a-z0-9_]+)+=|seed=")
_PREVIEW_ROWS, _PREVIEW_EPOCHS = 8, 5
_WORST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.usage = "vit prepare SOURCE OUT [section.key=value ...] [options]"
    parser.add_argument(
        "places",
        nargs="+",
        metavar="SOURCE OUT",
        help="data set and folder to write, and settings over the recipe's; with --verify or "
        "--preview OUT alone will do",
    )
    parser.add_argument(
        "--recipe",
        default="image_folder",
        help="whose settings hold: on_bad_image, validation_fraction, and for --preview "
        "augmentation and patches (default: image_folder)",
    )
    parser.add_argument("--shard-size", type=int, default=4096, help="examples (default: 4096)")
    parser.add_argument("--processes", type=int, help="that work at a time (default: all cores)")
    parser.add_argument(
        "--verify", action="store_true", help="read every record of OUT and decode every image"
    )
    parser.add_argument(
        "--preview", type=Path, metavar="FILE.png", help="draw examples, augmented, and in patches"
    )
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Prepares, verifies, draws: what was asked for, in this order."""
    settings = [text for text in arguments.places if _SETTING.match(text)]
    places = [text for text in arguments.places if not _SETTING.match(text)]
    looks = arguments.verify or arguments.preview is not None
    if len(places) not in ((1, 2) if looks else (2,)):
        raise SettingsError(
            "name a data set and a folder to write: vit prepare SOURCE OUT; or a prepared folder "
            f"and what to do: vit prepare OUT --verify. Received: {' '.join(places)}"
        )
    check_paths(places)
    for name in ("shard_size", "processes"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise SettingsError(f"--{name.replace('_', '-')} must be at least 1. Received: {value}")
    if len(places) == 2 and Path(places[0]).resolve() == Path(places[1]).resolve():
        raise SettingsError(f"OUT must be another folder than SOURCE. Received: {places[1]}")
    if arguments.preview is not None and not arguments.preview.parent.is_dir():
        raise SettingsError(f"--preview: there is no folder {arguments.preview.parent}")
    # Ended by the scheduler as by Ctrl-C: the other processes are ended too.
    signal.signal(signal.SIGTERM, _interrupt)
    config = load_config(find_recipe(arguments.recipe), settings)
    processes = arguments.processes or available_cores()
    if len(places) == 2:
        _prepare(places[0], Path(places[1]), config, settings, arguments.shard_size, processes)
    out = Path(places[-1])
    if arguments.verify:
        _verify(out, processes)
    if arguments.preview is not None:
        _draw(out, config, arguments.preview)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _prepare(
    source: str,
    out: Path,
    config: Config,
    settings: Sequence[str],
    shard_size: int,
    processes: int,
) -> None:
    chosen = any(setting.startswith("data.source=") for setting in settings)
    data = config.data.model_copy(
        update=find_source(source, config.data.source if chosen else None)
    )
    opened = open_source(data, config.seed)
    for note in opened.notes:
        print(note)
    total = sum(split.num_examples for split in opened.splits.values())
    with closing(CountDisplay(total, "images")) as display:
        facts = prepare(
            opened, out, data, shard_size=shard_size, processes=processes, on_done=display.add
        )
    print(_describe(facts, out))


def _describe(facts: SetFacts, out: Path) -> str:
    counts = ", ".join(f"{split.examples:,} {name}" for name, split in facts.splits.items())
    shards = [shard for split in facts.splits.values() for shard in split.shards]
    lines = [
        (
            f"{counts} images of {len(facts.classes)} classes in {len(shards)} shards, "
            f"{sum(shard.size for shard in shards) / 1e6:,.1f} MB"
        ),
        (
            f"height {facts.smallest[0]} to {facts.largest[0]}, width {facts.smallest[1]} to "
            f"{facts.largest[1]}, mean {_numbers(facts.mean)}, deviation {_numbers(facts.std)}"
        ),
    ]
    if facts.converted:
        lines.append(f"{facts.converted} images of other kinds were converted to PNG")
    if facts.unreadable:
        lines.append(f"{facts.unreadable} unreadable images were left out: {out / UNREADABLE}")
    if facts.repaired:
        lines.append(
            f"warning: libjpeg repaired damaged data of {facts.repaired} images, which are used: "
            f"{out / REPAIRED}"
        )
    if facts.duplicates:
        lines.append(
            f"warning: {facts.duplicates} images have the same pixels as one of another split: "
            f"{out / DUPLICATES}"
        )
    if facts.conflicts:
        lines.append(
            f"warning: {facts.conflicts} images have the same pixels as one with another label: "
            f"{out / CONFLICTS}"
        )
    path = shlex.quote(f"data.path={out}")
    lines.append(f"train from it   vit train RECIPE data.source=records {path}")
    return "\n".join(lines)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _verify(out: Path, processes: int) -> None:
    total = sum(split.examples for split in read_facts(out).splits.values())
    with closing(CountDisplay(total, "images")) as display:
        _, problems = verify(out, processes, display.add)
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:_WORST])
        more = f"\n  and {len(problems) - _WORST} more" if len(problems) > _WORST else ""
        raise DataError(
            f"{out} is damaged:\n{shown}{more}\nCopy these files again, or "
            f"remove {out / FACTS} and prepare the set again"
        )
    print(f"{out}: all {total:,} images are whole")


def _draw(out: Path, config: Config, file: Path) -> None:
    data = config.data.model_copy(update={"source": "records", "path": str(out)})
    source = open_source(data, config.seed)
    import_tensorflow()
    from pipeline.data.images import bad_images_named, load_example
    from pipeline.data.input import augmented_examples
    from pipeline.model.architecture import architecture, check_patches
    from pipeline.monitor.preview import PreviewRow, draw_preview

    patch_size = architecture(config.model).patch_size
    check_patches(data.image_size, patch_size)
    split = source.splits["train"]
    indices = first_of_classes(split.labels, _PREVIEW_ROWS)
    with bad_images_named():
        augmented = augmented_examples(
            split, data, seed=config.seed, epochs=_PREVIEW_EPOCHS, indices=indices
        )
    rows = [
        PreviewRow(source.classes[split.labels[index]], load_example(split, index, data), pictures)
        for index, pictures in zip(indices, augmented, strict=True)
    ]
    draw_preview(rows, patch_size, f"{out}, as {config.run_dir.name} trains it", file)
    print(f"preview   {file}")


if __name__ == "__main__":
    run_process(["prepare", *sys.argv[1:]])
