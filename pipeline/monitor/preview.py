"""A page that shows what a model sees: examples by class, augmented, and cut into patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from pipeline.errors import DataError
from pipeline.storage.write import replace_file

Images = npt.NDArray[np.uint8]

_INCH = 1.1  # size of an image on the page
_DPI = 100


class PreviewRow(NamedTuple):
    """One example of a class.

    Attributes:
      name: Name of the class.
      image: uint8 [S, S, 3], as in evaluation.
      augmented: uint8 [k, S, S, 3], as in k epochs of training.
    """

    name: str
    image: Images
    augmented: Images


def draw_preview(rows: Sequence[PreviewRow], patch_size: int, title: str, path: Path) -> None:
    """Writes the page as PNG.

    Args:
      rows: One or more examples. The first is also shown in patches.
      patch_size: Side of a patch in pixels; a divisor of S.
      title: Title of the page.
      path: Output file.

    Raises:
      DataError: The file cannot be written.
    """
    columns = 1 + len(rows[0].augmented)
    height = len(rows) * _INCH + 0.8
    side = max(columns * _INCH, 3.0)
    widths = 1.3 + columns * _INCH, side + 0.6
    page = Figure(figsize=(sum(widths), max(height, side + 1.2)), dpi=_DPI, layout="constrained")
    parts: Any = page.subfigures(1, 2, width_ratios=widths)
    left, right = parts
    page.suptitle(title, fontsize=10, parse_math=False)
    axes = left.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        pictures = [row.image, *row.augmented]
        for place, (axis, picture) in enumerate(zip(line, pictures, strict=True)):
            show(axis, picture)
            if row is rows[0]:
                axis.set_title("original" if place == 0 else f"epoch {place - 1}", fontsize=8)
        line[0].set_ylabel(
            row.name, fontsize=8, rotation=0, ha="right", va="center", parse_math=False
        )
    draw_patches(right, rows[0].image, patch_size)
    try:
        replace_file(path, lambda stream: page.savefig(stream, format="png"))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None


def draw_patches(figure: Figure | SubFigure, image: Images, patch_size: int) -> None:
    """Draws an image, uint8 [S, S, 3], as a grid of separated patches."""
    count = image.shape[0] // patch_size
    patches = image.reshape(count, patch_size, count, patch_size, 3).swapaxes(1, 2)
    gap = max(1, patch_size // 8)
    step = patch_size + gap
    canvas = np.full((count * step - gap, count * step - gap, 3), 255, np.uint8)
    for top in range(count):
        for left in range(count):
            y, x = top * step, left * step
            canvas[y : y + patch_size, x : x + patch_size] = patches[top, left]
    axis = figure.subplots()
    show(axis, canvas)
    axis.set_title(
        f"{count} x {count} patches of {patch_size} x {patch_size} pixels: {count * count} tokens",
        fontsize=8,
    )


def show(axis: Axes, image: Images) -> None:
    """Draws one image with square pixels and without axes."""
    axis.imshow(image, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
