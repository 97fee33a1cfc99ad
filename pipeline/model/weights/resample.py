"""Resampling of position and patch embeddings: pure NumPy, computed in float64."""

from __future__ import annotations

import numpy as np


def resample_positions(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Resamples position embeddings [h, w, D] to another grid [rows, columns, D].

    The interpolation is bilinear with aligned corners, like scipy.ndimage.zoom(order=1). ViT and
    big_vision resample in this way before they fine-tune at another resolution
    (github.com/google-research/vision_transformer, vit_jax/checkpoint.py).
    """
    down, across = _align_corners(len(grid), rows), _align_corners(grid.shape[1], columns)
    return np.einsum("ih,jw,hwd->ijd", down, across, grid, optimize=True).astype(grid.dtype)


def resample_patches(kernel: np.ndarray, patch_size: int) -> np.ndarray:
    """Resamples a patch embedding kernel [P, P, C, D] to another patch size: [P', P', C, D].

    This is PI-resize of FlexiViT. Let B be the matrix that resizes a patch bilinearly from P x P to
    P' x P'. The new kernel is pinv(B^T) times the old one. It maps a resized patch to the same
    token as the old kernel maps the patch. This is exact if patches grow; if they shrink, it is
    the best approximation for white-noise patches. B is the Kronecker product of two equal
    matrices, for rows and columns, and so is its pseudo-inverse.

    References:
      Beyer et al. 2022, arXiv 2212.08013, section 3.4.
    """
    inverse = np.linalg.pinv(resize_matrix(len(kernel), patch_size).T)  # [P', P]
    return np.einsum("ip,jq,pqcd->ijcd", inverse, inverse, kernel, optimize=True).astype(
        kernel.dtype
    )


def resize_matrix(old: int, new: int) -> np.ndarray:
    """The matrix that resizes a line of `old` pixels bilinearly to `new`, float64 [new, old].

    Pixel centers lie half a pixel from the edges, and there is no antialiasing. This is the default
    of tf.image.resize, which FlexiViT uses.
    """
    return _interpolate((np.arange(new) + 0.5) * old / new - 0.5, old)


def _align_corners(old: int, new: int) -> np.ndarray:
    return _interpolate(np.linspace(0, old - 1, new), old)


def _interpolate(places: np.ndarray, old: int) -> np.ndarray:
    """Interpolation weights [new, old] of points on a line with pixels at 0, 1, ... old - 1."""
    distance = np.abs(np.clip(places, 0, old - 1)[:, None] - np.arange(old))  # [new, old]
    return np.maximum(0, 1 - distance)
