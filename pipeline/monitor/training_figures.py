"""Figures of a run as PNG: its first batch, an image in patches, positions, attention."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pipeline.monitor.preview import Images, draw_patches, show
from pipeline.printable import printable

Floats = npt.NDArray[np.float32]

_COLUMNS = 8
_INCH = 1.3
_DPI = 100
_NAME_LENGTH = 14
_LEAST_SHARE = 0.05  # smallest share of a label that is shown


def draw_batch(images: Images, targets: Floats, classes: Sequence[str]) -> bytes:
    """Draws training images with their labels, and the share of each label in mixed images.

    Args:
      images: uint8 [n, S, S, 3], augmented and mixed.
      targets: float32 [n, C], rows sum to 1.
      classes: C names.
    """
    columns = min(_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    page = Figure(figsize=(columns * _INCH, rows * (_INCH + 0.35)), dpi=_DPI, layout="constrained")
    axes = page.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, target in zip(axes, images, targets, strict=False):
        show(axis, image)
        axis.set_title(describe_target(target, classes), fontsize=7, parse_math=False)
    return _png(page)


def describe_target(target: Floats, classes: Sequence[str]) -> str:
    """Names the labels of a target [C] and their shares, without label smoothing."""
    # Smoothing adds the same value to every class, so the minimum is the smoothing.
    own = target - target.min()
    own = own / max(float(own.sum()), 1e-6)
    best = [int(i) for i in np.argsort(-own, kind="stable")[:2] if own[i] >= _LEAST_SHARE]
    if len(best) == 1:
        return _short(classes[best[0]])
    return "\n".join(f"{own[i]:.0%} {_short(classes[i])}" for i in best)


def draw_image_in_patches(image: Images, patch_size: int) -> bytes:
    """Draws an image, uint8 [S, S, 3], next to its patches."""
    page = Figure(figsize=(7.2, 3.9), dpi=_DPI, layout="constrained")
    parts: Any = page.subfigures(1, 2)
    left, right = parts
    axis = left.subplots()
    show(axis, image)
    axis.set_title(f"{image.shape[0]} x {image.shape[1]} pixels", fontsize=8)
    draw_patches(right, image, patch_size)
    return _png(page)


def draw_positions(positions: Floats, grid: tuple[int, int]) -> bytes:
    """Draws the similarity of position embeddings: for each patch, a map over all patches.

    The values are cosines, as in figure 7 of Dosovitskiy et al. 2021.

    Args:
      positions: float32 [rows * columns, D], without that of a class token.
      grid: Rows and columns of patches.
    """
    rows, columns = grid
    length = np.maximum(np.linalg.norm(positions, axis=1, keepdims=True), 1e-12)
    unit = positions / length
    likeness = (unit @ unit.T).reshape(rows, columns, rows, columns)
    # Maps side by side with gaps: [r, c, r, c] -> [r (r + 1) - 1, c (c + 1) - 1]
    apart = np.pad(likeness, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    sheet = apart.transpose(0, 2, 1, 3).reshape(rows * (rows + 1), columns * (columns + 1))
    sheet = sheet[:-1, :-1]
    page = Figure(figsize=(5.6, 5.0), dpi=_DPI, layout="constrained")
    axis = page.subplots()
    shown = axis.imshow(sheet, cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_xticks(_centers(columns), map(str, range(1, columns + 1)), fontsize=6)
    axis.set_yticks(_centers(rows), map(str, range(1, rows + 1)), fontsize=6)
    axis.set_xlabel("column of the patch", fontsize=8)
    axis.set_ylabel("row of the patch", fontsize=8)
    page.colorbar(shown, ax=axis, label="cosine of two positions", shrink=0.8)
    return _png(page)


def draw_attention(images: Images, shares: Floats, names: Sequence[str]) -> bytes:
    """Draws the attention of the last block over each image.

    Args:
      images: uint8 [n, S, S, 3].
      shares: float32 [n, rows, columns], attention per patch.
      names: Title of each image.
    """
    n = len(images)
    page = Figure(figsize=(n * 1.6, 3.7), dpi=_DPI, layout="constrained")
    axes = page.subplots(2, n, squeeze=False)
    side = images.shape[1]
    for column, (image, share, name) in enumerate(zip(images, shares, names, strict=True)):
        show(axes[0, column], image)
        axes[0, column].set_title(_short(name), fontsize=8, parse_math=False)
        show(axes[1, column], image)
        axes[1, column].imshow(
            share, cmap="inferno", alpha=0.65, interpolation="nearest",
            extent=(-0.5, side - 0.5, side - 0.5, -0.5),
        )  # fmt: skip
        axes[1, column].set_title(f"max {share.max():.1%}", fontsize=8)
    return _png(page)


def _centers(count: int) -> list[float]:
    return [place * (count + 1) + (count - 1) / 2 for place in range(count)]


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _png(page: Figure) -> bytes:
    stream = io.BytesIO()
    page.savefig(stream, format="png")
    return stream.getvalue()
