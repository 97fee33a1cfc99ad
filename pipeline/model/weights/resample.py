"""Positions of another grid, patch embeddings of another size: pure NumPy, in float64 inside."""

from __future__ import annotations

import numpy as np


def resample_positions(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Position embeddings [h, w, D] of another grid: [rows, columns, D].

    Bilinear, with the corners of both grids on one another: what scipy.ndimage.zoom(order=1) does,
    by which the ViT code and big_vision resample before they fine-tune at another resolution
    (github.com/google-research/vision_transformer, vit_jax/checkpoint.py).
    """
    down, across = _align_corners(len(grid), rows), _align_corners(grid.shape[1], columns)
    return np.einsum("ih,jw,hwd->ijd", down, across, grid, optimize=True).astype(grid.dtype)


def resample_patches(kernel: np.ndarray, patch_size: int) -> np.ndarray:
    """A patch embedding's kernel [P, P, C, D] for patches of another size: [P', P', C, D].

    FlexiViT's PI-resize (Beyer et al. 2022, arXiv 2212.08013, section 3.4). With B the matrix that
    resizes a patch of P x P to P' x P' bilinearly, the new kernel is pinv(B^T) times the old one:
    it gives a resized patch the token that the old one gave the patch, exactly where patches grow,
    and as nearly as can be for patches of white noise where they shrink. B is the product of two
    equal matrices, one for rows and one for columns, and so is its pseudo-inverse.
    """
    inverse = np.linalg.pinv(resize_matrix(len(kernel), patch_size).T)  # [P', P]
    return np.einsum("ip,jq,pqcd->ijcd", inverse, inverse, kernel, optimize=True).astype(
        kernel.dtype
    )


def resize_matrix(old: int, new: int) -> np.ndarray:
    """Bilinear resizing of a line of `old` pixels to `new`, as float64 [new, old].

    Pixels have their centres half a pixel from the edges, and nothing is smoothed where they
    shrink: tf.image.resize's default, which FlexiViT's code takes.
    """
    return _interpolate((np.arange(new) + 0.5) * old / new - 0.5, old)


def _align_corners(old: int, new: int) -> np.ndarray:
    return _interpolate(np.linspace(0, old - 1, new), old)


def _interpolate(places: np.ndarray, old: int) -> np.ndarray:
    """Shares [new, old] that points of a line have in its pixels at 0, 1, ... old - 1."""
    distance = np.abs(np.clip(places, 0, old - 1)[:, None] - np.arange(old))  # [new, old]
    return np.maximum(0, 1 - distance)
