"""EXIF orientation: how a stored image is turned upright.

| value | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |
|---|---|---|---|---|---|---|---|---|
| transposed | | | | | x | x | x | x |
| then flipped left to right | | x | x | | | x | x | |
| then flipped top to bottom | | | x | x | | | x | x |

For example, 6 means that the stored image is rotated clockwise by 90 degrees for display.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TRANSPOSED, MIRRORED, UPSIDE_DOWN = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)


def turn_pixels(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Turns one image [H, W, ...] upright."""
    if orientation in TRANSPOSED:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in MIRRORED:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in UPSIDE_DOWN else pixels
