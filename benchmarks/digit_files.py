"""The handwritten digits of scikit-learn as PNG files, with a list of them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from pipeline.storage.folders import make_folder
from pipeline.storage.write import replace_file

# Every tenth image is for the test, and the one after it for validation. Without such a split,
# validation images are chosen by name, and a list names images differently than a folder.
_SPLITS = ("test", "validation", *["train"] * 8)


def write_digits(folder: Path) -> Path:
    """Writes all digits to an image folder, `split/class/number.png`, and to list.csv in it.

    Returns:
      The path of the list.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = []
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = _SPLITS[number % len(_SPLITS)]
        path = f"{split}/{label}/{number:04d}.png"
        make_folder((folder / path).parent, parents=True)
        _write(Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)), folder / path)
        rows.append((path, str(label), split))
    text = io.StringIO()
    # The order of paths is that of the images in a folder. Another order of examples would train
    # other weights.
    csv.writer(text).writerows([("path", "label", "split"), *sorted(rows)])
    replace_file(folder / "list.csv", text.getvalue())
    return folder / "list.csv"


def _write(image: Image.Image, path: Path) -> None:
    def save(stream: BinaryIO) -> None:
        image.save(stream, "PNG")

    replace_file(path, save, durable=False)
