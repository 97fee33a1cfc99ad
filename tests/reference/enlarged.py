"""Small pictures as photographs of different sizes: what `image_folder` is tried with here.

`python -m tests.reference.enlarged SMALL OUT --images 3000` takes so many of SMALL/train/<class>/*,
as many of each class, and all of SMALL/test; cuts a box of some aspect ratio out of each, enlarges
it to 96 to 320 pixels, and writes it as a JPEG file. They show no more than the small ones did.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

_SHORT, _LONG = 96, 320  # sides, pixels
_ASPECT = 4 / 3
_QUALITY = 90


def enlarge(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A box of aspect 3/4 to 4/3 in the center, enlarged."""
    aspect = np.exp(rng.uniform(-1, 1) * np.log(_ASPECT))
    side = min(image.size)
    width, height = side * min(1, aspect), side * min(1, 1 / aspect)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    factor = rng.uniform(_SHORT / min(width, height), _LONG / max(width, height))
    size = round(factor * width), round(factor * height)
    box = (left, top, left + width, top + height)
    return image.resize(size, Image.Resampling.BICUBIC, box=box)


def write(small: Path, out: Path, images: int) -> None:
    """Writes both splits."""
    rng = np.random.default_rng(0)
    for split, wanted in (("train", images), ("test", None)):
        folders = sorted((small / split).iterdir())
        for folder in folders:
            files = sorted(folder.iterdir())
            (out / split / folder.name).mkdir(parents=True, exist_ok=True)
            for file in files[: None if wanted is None else wanted // len(folders)]:
                enlarged = enlarge(Image.open(file).convert("RGB"), rng)
                enlarged.save(out / split / folder.name / f"{file.stem}.jpg", quality=_QUALITY)


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("small", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=3000, help="for training (default: 3000)")
    given = parser.parse_args()
    write(given.small, given.out, given.images)


if __name__ == "__main__":
    main()
