"""Converts grayscale images with more than 8 bits to 8 bits.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.decode.unreadable import UnreadableError

# Tags of a TIFF file.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_S_MIN_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE = 340, 341
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_VALUES_AT_A_TIME = 2**20


def gray_levels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Converts an image in one of Pillow's modes I, I;16 (any byte order) and F.

    - If a TIFF states its range (SMinSampleValue, SMaxSampleValue), the range is mapped to 0..255.
    - Otherwise, unsigned integers with 9 to 16 bits keep their 8 highest bits.
    - Otherwise, floating-point values must be in 0..1, which is mapped to 0..255.
    - Signed integers and 32-bit integers without a stated range are refused, because it is not
      known which value is white.

    Returns:
      uint8 [H, W].

    Raises:
      UnreadableError: The range of the values is not known, or values are outside it.
    """
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "I" and _first(tags.get(_SAMPLE_FORMAT, _UNSIGNED)) == _UNSIGNED:
        values = values.view(np.uint32)  # Pillow's mode I is always signed
    stated = _stated_range(tags)
    if stated is not None:
        levels = _scale(values, *stated)
    elif image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        bits = int(_first(tags.get(_BITS_PER_SAMPLE, 16)))
        levels = (values >> max(bits - 8, 0)).astype(np.uint8)
    elif image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise UnreadableError(
                f"its floating-point values range from {low:g} to {high:g}, but must be from 0 to "
                f"1 {_OR_STATE}"
            )
        levels = _scale(values, 0.0, 1.0)
    else:
        raise UnreadableError(
            "it has signed or 32-bit integers, for which it is not known which value is white, "
            f"{_OR_STATE}"
        )
    return 255 - levels if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels


_OR_STATE = (
    "unless the file states their range (TIFF tags SMinSampleValue and SMaxSampleValue). Convert "
    "it to 8 or 16 bits"
)


def _stated_range(tags: object) -> tuple[float, float] | None:
    found = [tags.get(tag) for tag in (_S_MIN_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE)]  # type: ignore[attr-defined]
    if None in found:
        return None
    low, high = (float(_first(value)) for value in found)
    if not low < high:
        raise UnreadableError(f"it states an invalid range of values, from {low:g} to {high:g}")
    return low, high


def _scale(values: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.uint8]:
    levels = np.empty(values.shape, np.uint8)
    # Convert some rows at a time; all pixels in float64 would take the memory of eight images.
    rows = max(1, _VALUES_AT_A_TIME // max(1, values.shape[-1]))
    for top in range(0, len(values), rows):
        share = (values[top : top + rows].astype(np.float64) - low) / (high - low)
        if np.isnan(share).any():
            raise UnreadableError("some of its floating-point values are NaN")
        levels[top : top + rows] = np.rint(share.clip(0, 1) * 255)
    return levels


def _first(value: object) -> float:
    return value[0] if isinstance(value, tuple) else value  # type: ignore[return-value]
