"""Patches, linear layers and fixed positions as pure functions of tensors.

Letters in shapes: B images, H x W pixels, h x w patches of P x P pixels, N = h w patches, T tokens
(N, or N + 1 with a class token), D width, n heads of size d, M hidden units of the MLP.

References:
  Dosovitskiy et al. 2021, arXiv 2010.11929.
  Vaswani et al. 2017, arXiv 1706.03762.
"""

from __future__ import annotations

import numpy as np
from keras import ops

from pipeline.model.backend import Tensor, affine


def image_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """Cuts images [B, H, W, C] into patches [B, N, P*P*C] in row-major order.

    Values inside a patch are ordered by row, column and channel. A convolution kernel [P, P, C, D]
    reshaped to [P*P*C, D] is therefore the matching matrix.

    Raises:
      ValueError: The height or width is not a multiple of `patch_size`.
    """
    _, height, width, channels = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"Images must have sides that are multiples of patch_size={patch_size}. "
            f"Received: {height} x {width} pixels"
        )
    rows, columns = height // patch_size, width // patch_size
    grid = ops.reshape(images, (-1, rows, patch_size, columns, patch_size, channels))
    grid = ops.transpose(grid, (0, 1, 3, 2, 4, 5))  # [B, h, P, w, P, C] -> [B, h, w, P, P, C]
    length = patch_size * patch_size * channels
    return ops.reshape(grid, (-1, rows * columns, length))  # -> [B, h w, P*P*C]


def linear(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Computes x [..., I] times kernel [I, O] plus bias [O] as one product of two matrices.

    On a CPU this is faster than a batched product with a shared kernel.
    """
    flat = ops.reshape(x, (-1, x.shape[-1]))  # [..., I] -> [R, I]
    flat = affine(flat, kernel, bias)  # [R, I] -> [R, O]
    return ops.reshape(flat, (-1, *x.shape[1:-1], kernel.shape[-1]))  # [R, O] -> [..., O]


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Computes fixed 2-D sine-cosine positions, float32 [rows * columns, width].

    A quarter of the width each holds the sine and cosine of the column, then of the row. Angular
    frequencies fall from 1 to 1/10000, both ends included.

    Raises:
      ValueError: `width` is not a multiple of 4, or is below 8.

    References:
      Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k", arXiv 2205.01580, whose form
      this is (big_vision). MoCo v3 (Chen et al. 2021, arXiv 2104.02057) introduced the idea and
      omits the lowest frequency.
    """
    if width % 4 or width < 8:
        raise ValueError(f"sincos2d positions need a width of 8, 12, 16, ... Received: {width}")
    frequencies = 10_000.0 ** -np.linspace(0, 1, width // 4)
    row, column = np.divmod(np.arange(rows * columns), columns)
    across = column[:, None] * frequencies  # [N] -> [N, D/4]
    down = row[:, None] * frequencies
    parts = [np.sin(across), np.cos(across), np.sin(down), np.cos(down)]
    return np.concatenate(parts, axis=1).astype("float32")  # 4 x [N, D/4] -> [N, D]
