"""`python -m benchmarks files`"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.command import check_counts
from benchmarks.startup import start
from pipeline.recipes import find_recipe
from pipeline.storage.folders import make_folder
from pipeline.strict_json import to_json

_EPILOG = """\
Writes small JPEGs to an image folder, and measures a new run and a resumed run on it: the time from
the command to the first step, and the peak memory of the process. The same is measured for a folder
with few files, so that the difference is what the files cost.
"""

_FEW_FILES, _FEW_CLASSES = 1000, 10
_PIXELS = 32
_CONTENTS = 509  # different images; a prime, so that each class has others
# A small model, and few validation images, because neither is what is measured.
_SETTINGS = (
    "data.image_size=32", "data.validation_fraction=0.001", "model.width=32", "model.depth=1",
    "model.num_heads=2", "model.mlp_dim=64", "train.epochs=1",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("--files", type=int, default=1_000_000, help="default: 1,000,000")
    parser.add_argument("--classes", type=int, default=10_000, help="default: 10,000")
    parser.add_argument("--folder", type=Path, help="keep the images here, and use those there")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures a folder with few files and one with many."""
    check_counts(arguments, classes=2, files=2 * arguments.classes)
    with tempfile.TemporaryDirectory(prefix="vit-files-") as name:
        temporary = Path(name)
        for files, classes in ((_FEW_FILES, _FEW_CLASSES), (arguments.files, arguments.classes)):
            images = (arguments.folder or temporary) / f"{files}-files-{classes}-classes"
            if not images.exists():
                write_files(images, files, classes)
            settings = [f"data.path={images}", f"run.dir={temporary}/{files}", *_SETTINGS]
            for kind in ("a new run", "a resumed run"):
                times = start([str(find_recipe("image_folder")), *settings])
                what = f"{files:,} files in {classes:,} classes, {kind}"
                facts = {"what": what, "files": files, "classes": classes, **times}
                print(to_json(facts) if arguments.json else _line(facts), flush=True)
    return 0


def write_files(folder: Path, files: int, classes: int) -> None:
    """Writes JPEGs of 32 x 32 pixels to an image folder, each class the same number or one more."""
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(_CONTENTS):
        stream = io.BytesIO()
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((_PIXELS, _PIXELS), Image.Resampling.BICUBIC).save(stream, "JPEG")
        contents.append(stream.getvalue())
    for label in range(classes):
        place = folder / "train" / f"class-{label:05d}"
        make_folder(place, parents=True)
        for number in range(label, files, classes):
            (place / f"image-{number:07d}.jpg").write_bytes(contents[number % _CONTENTS])


def _line(facts: dict[str, Any]) -> str:
    return (
        f"{facts['what']:>52}: {facts['seconds']:.1f} s to the first step, "
        f"at most {facts['peak_mb']:,.0f} MB"
    )
