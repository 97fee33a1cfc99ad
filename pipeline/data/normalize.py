"""Normalizes batches faster than TensorFlow does, with the same bits. numba compiles it.

TensorFlow requests the memory of each large batch from the operating system, which clears it page
by page. NumPy asks for large pages.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from pipeline.data.native import compiled

# TensorFlow copies an array that does not start at a multiple of this.
_ALIGNMENT = 64


@compiled(numba.void(numba.uint8[:, ::1], numba.float32[::1], numba.float32[::1],
                     numba.float32[:, ::1]))  # fmt: skip
def _normalize(rows, scale, offset, result):  # type: ignore[no-untyped-def]
    for row in range(rows.shape[0]):
        pixels, values = rows[row], result[row]
        for place in range(pixels.size):
            values[place] = np.float32(pixels[place]) * scale[place] + offset[place]


def normalize_batch(
    images: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32], offset: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Returns images * scale + offset.

    Args:
      images: uint8 [B, H, W, 3].
      scale: float32 [W * 3], for a row of pixels.
      offset: Likewise.

    Returns:
      float32 [B, H, W, 3].
    """
    memory = np.empty(images.size * 4 + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    result = memory[start : start + images.size * 4].view(np.float32)
    _normalize(images.reshape(-1, len(scale)), scale, offset, result.reshape(-1, len(scale)))
    return result.reshape(images.shape)
