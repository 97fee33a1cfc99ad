"""Photographs for benchmarks, cut from the two that are part of scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.storage.folders import make_folder
from pipeline.storage.write import replace_file

WIDTH, HEIGHT = 500, 375  # The usual size of images in ImageNet.
_QUALITY = 90


def make_photographs(folder: Path, count: int, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Writes `count` JPEGs to an image folder with two classes; returns it.

    Larger photographs are mosaics of pieces of 500 x 375 pixels.
    """
    from sklearn.datasets import load_sample_images

    rng, originals = np.random.default_rng(0), load_sample_images().images
    for number in range(count):
        original = originals[number % 2]
        pieces = [
            [_cut(original, rng) for _ in range(0, width, WIDTH)] for _ in range(0, height, HEIGHT)
        ]
        pixels = np.concatenate([np.concatenate(row, axis=1) for row in pieces])[:height, :width]
        path = folder / "train" / ("temple", "flower")[number % 2] / f"{number:05d}.jpg"
        make_folder(path.parent, parents=True)
        _write(Image.fromarray(np.ascontiguousarray(pixels)), path)
    return folder


def _cut(original: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    top = rng.integers(original.shape[0] - HEIGHT + 1)
    left = rng.integers(original.shape[1] - WIDTH + 1)
    return original[top : top + HEIGHT, left : left + WIDTH][:, :: rng.choice((-1, 1))]


def _write(image: Image.Image, path: Path) -> None:
    def save(stream: BinaryIO) -> None:
        image.save(stream, "JPEG", quality=_QUALITY)

    replace_file(path, save, durable=False)
