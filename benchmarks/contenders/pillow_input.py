"""The input stage with Pillow or Pillow-SIMD: `python -m benchmarks.contenders.pillow_input`."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.contenders.serve import Work, serve


def main() -> None:
    """Times batches when asked on standard input."""
    work = Work.of_arguments()
    contents = [file.read_bytes() for file in work.files]
    with ThreadPoolExecutor(work.threads) as pool:
        serve(lambda: _batches(work, contents, pool), work.batch_size)


def load(
    content: bytes, size: int, min_area: float | None, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Decodes a JPEG, crops, resizes and flips it at random, and normalizes it to -1..1.

    Args:
      content: The file.
      size: S, in pixels.
      min_area: Smallest area of a crop as a fraction of the image; None only decodes.
      rng: Chooses the crop and the flip.

    Returns:
      float32 [S, S, 3], or of the size of the image.
    """
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        pixels = image.convert("RGB")
    if min_area is not None:
        box = _box(rng, pixels.width, pixels.height, min_area)
        pixels = pixels.resize((size, size), Image.Resampling.BILINEAR, box=box)
        if rng.random() < 0.5:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(pixels, np.float32) / np.float32(127.5) - np.float32(1.0)


def _batches(
    work: Work, contents: list[bytes], pool: ThreadPoolExecutor
) -> Iterator[npt.NDArray[np.float32]]:
    def one(number: int) -> npt.NDArray[np.float32]:
        content = contents[number % len(contents)]
        return load(content, work.size, work.min_area, np.random.default_rng(number))

    numbers, waiting = count(), deque[Future[npt.NDArray[np.float32]]]()
    while True:
        while len(waiting) < 2 * work.batch_size:
            waiting.append(pool.submit(one, next(numbers)))
        yield np.stack([waiting.popleft().result() for _ in range(work.batch_size)])


def _box(
    rng: np.random.Generator, width: int, height: int, min_area: float
) -> tuple[int, int, int, int]:
    """Chooses a random resized crop like torchvision: (left, top, right, bottom)."""
    for _ in range(10):
        area = width * height * rng.uniform(min_area, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


if __name__ == "__main__":
    main()
