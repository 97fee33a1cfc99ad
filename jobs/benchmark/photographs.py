"""Photographs to measure with: cut from the two that scikit-learn ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375  # the usual size of ImageNet's
_QUALITY = 90


def make_photographs(folder: Path, count: int) -> Path:
    """Writes `count` JPEG files of 500 x 375 as an image folder of two classes, and returns it."""
    from sklearn.datasets import load_sample_images

    rng, originals = np.random.default_rng(0), load_sample_images().images
    for number in range(count):
        original = originals[number % 2]
        top = rng.integers(original.shape[0] - HEIGHT + 1)
        left = rng.integers(original.shape[1] - WIDTH + 1)
        pixels = original[top : top + HEIGHT, left : left + WIDTH, :][:, :: rng.choice((-1, 1))]
        path = folder / "train" / ("temple", "flower")[number % 2] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=_QUALITY)
    return folder
