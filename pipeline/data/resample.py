"""Resizes a part of an image with a triangle filter. numba compiles it to native code.

It gives the same bits as `preprocess.resize`, and on every processor, because all sums are exact
(filter_steps.py).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipeline.data.filter_steps import ROUNDING, STEPS, UNIT

# This many rows lie side by side in the horizontal pass, so that they fill vector registers.
_BAND = 16
# The number of pixels that are added at once.
_TAPS = 4

_INT, _BOOL = numba.int64, numba.boolean
_FLOATS, _FLOAT_ROWS, _INTS = numba.float32[::1], numba.float32[:, ::1], numba.int64[::1]
_FILTER: Any = numba.types.Tuple  # it has no annotations
_ROWS = numba.types.Array(numba.uint8, 2, "C", readonly=True)
_RESULT = numba.uint8[:, ::1]


def _compiled(signature: Any, fastmath: bool = True) -> Any:
    """Compiles at import, or takes the code from numba's cache if there is a folder for it."""

    def compile_(function: Any) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except RuntimeError:  # neither this folder nor the user's cache can be written
            return numba.njit(signature, **options)(function)

    return compile_


@_compiled(_FILTER((_INTS, _INTS, _FLOAT_ROWS))(_INT, _INT, _BOOL), fastmath=False)
def _filter(length, size, antialias):  # type: ignore[no-untyped-def]
    """First pixel, number of pixels and weights of each result, [size], [size] and [size, taps].

    The triangle has its center at the result and reaches to the neighbours of the result, or of the
    pixel if the image grows. Its values at the pixels inside the image are divided by their sum.
    """
    scale = length / size
    reach = max(scale, 1.0) if antialias else 1.0
    most = int(2 * reach) + 2
    taps = -(-most // _TAPS) * _TAPS
    first, count = np.zeros(size, np.int64), np.zeros(size, np.int64)
    weights = np.zeros((size, taps), np.float32)
    for place in range(size):
        center = (place + 0.5) * scale - 0.5
        low = max(int(np.ceil(center - reach)), 0)
        high = min(int(np.floor(center + reach)), length - 1)
        total = 0.0
        for pixel in range(low, high + 1):
            total += max(1 - abs(pixel - center) / reach, 0.0)
        # Rounding the running sum keeps the sum of the weights at exactly 1.
        reached, before = 0.0, 0
        for pixel in range(low, high + 1):
            reached += max(1 - abs(pixel - center) / reach, 0.0)
            now = int(np.floor(reached / total * UNIT + ROUNDING))
            weights[place, pixel - low] = np.float32(now - before) / np.float32(UNIT)
            before = now
        first[place], count[place] = low, high + 1 - low
    return first, count, weights


@_compiled(numba.void(_ROWS, _INT, _INT, _INT, _INT, _FLOATS, _FLOATS))
def _vertical(rows, first, count, left, end, weights, result):  # type: ignore[no-untyped-def]
    """One row of the result: the weighted sum of `count` rows."""
    last = rows.shape[0] - 1
    for tap in range(0, count, _TAPS):
        row = first + tap
        row_0 = rows[min(row, last), left:end]
        row_1 = rows[min(row + 1, last), left:end]
        row_2 = rows[min(row + 2, last), left:end]
        row_3 = rows[min(row + 3, last), left:end]
        weight_0, weight_1 = weights[tap], weights[tap + 1]
        weight_2, weight_3 = weights[tap + 2], weights[tap + 3]
        for place in range(result.size):
            value = (
                np.float32(row_0[place]) * weight_0
                + np.float32(row_1[place]) * weight_1
                + np.float32(row_2[place]) * weight_2
                + np.float32(row_3[place]) * weight_3
            )
            result[place] = value + result[place] if tap else value


@_compiled(numba.void(_FLOAT_ROWS, _FLOAT_ROWS))
def _turn(band, turned):  # type: ignore[no-untyped-def]
    """Rounds a band of rows, and lays its rows side by side."""
    for place in range(band.shape[1]):
        for row in range(_BAND):
            value = band[row, place] * np.float32(STEPS) + np.float32(0.5)
            turned[place, row] = np.float32(np.int32(value))


@_compiled(numba.void(_FLOATS, _INTS, _INTS, _FLOAT_ROWS, _FLOATS))
def _horizontal(turned, first, count, weights, result):  # type: ignore[no-untyped-def]
    """The results of a band: [W * 3 * _BAND] -> [size * 3 * _BAND]."""
    pixel = 3 * _BAND
    for place in range(first.size):
        values = result[place * pixel : (place + 1) * pixel]
        for tap in range(0, count[place], _TAPS):
            start = (first[place] + tap) * pixel
            pixel_0 = turned[start : start + pixel]
            pixel_1 = turned[start + pixel : start + 2 * pixel]
            pixel_2 = turned[start + 2 * pixel : start + 3 * pixel]
            pixel_3 = turned[start + 3 * pixel : start + 4 * pixel]
            weight_0, weight_1 = weights[place, tap], weights[place, tap + 1]
            weight_2, weight_3 = weights[place, tap + 2], weights[place, tap + 3]
            for number in range(pixel):
                value = (
                    pixel_0[number] * weight_0
                    + pixel_1[number] * weight_1
                    + pixel_2[number] * weight_2
                    + pixel_3[number] * weight_3
                )
                values[number] = value + values[number] if tap else value


@_compiled(numba.void(_FLOAT_ROWS, _RESULT))
def _store(values, rows):  # type: ignore[no-untyped-def]
    for row in range(rows.shape[0]):
        result = rows[row]
        for place in range(rows.shape[1]):
            value = values[place, row] * np.float32(1 / STEPS) + np.float32(0.5)
            result[place] = np.uint8(np.int32(value))


@_compiled(numba.void(_ROWS, _INT, _INT, _INT, _INT, _BOOL, _RESULT))
def _resample(rows, top, left, height, width, antialias, result):  # type: ignore[no-untyped-def]
    size = result.shape[0]
    inside = rows[top : top + height]
    first_row, row_count, row_weights = _filter(height, size, antialias)
    first_pixel, pixel_count, pixel_weights = _filter(width, size, antialias)
    band = np.zeros((_BAND, width * 3), np.float32)
    turned = np.zeros(((width + pixel_weights.shape[1]) * 3, _BAND), np.float32)
    values = np.empty((size * 3, _BAND), np.float32)
    for start in range(0, size, _BAND):
        end = min(start + _BAND, size)
        for row in range(start, end):
            _vertical(
                inside, first_row[row], row_count[row], left * 3, (left + width) * 3,
                row_weights[row], band[row - start],
            )  # fmt: skip
        _turn(band, turned)
        _horizontal(turned.reshape(turned.size), first_pixel, pixel_count, pixel_weights,
                    values.reshape(values.size))  # fmt: skip
        _store(values, result[start:end])


def resample_batch(
    images: npt.NDArray[np.uint8], boxes: npt.NDArray[np.int32], size: int, antialias: bool
) -> npt.NDArray[np.uint8]:
    """`resample` of images uint8 [b, H, W, 3] with boxes [b, 4] -> uint8 [b, size, size, 3]."""
    results = np.empty((len(images), size, size, 3), np.uint8)
    for image, box, result in zip(images, boxes.tolist(), results, strict=True):
        resample(image, tuple(box), result, antialias)
    return results


def resample(
    image: npt.NDArray[np.uint8],
    box: tuple[int, int, int, int],
    result: npt.NDArray[np.uint8],
    antialias: bool,
) -> None:
    """Resizes the part of an image inside a box to a square.

    Args:
      image: uint8 [H, W, 3].
      box: Top, left, height and width.
      result: Receives the pixels, uint8 [S, S, 3]. Both arrays are contiguous.
      antialias: Whether the triangle grows with the pixels of the result when the image shrinks.

    Raises:
      ValueError: The box is empty or not inside the image.
    """
    top, left, height, width = box
    inside = top >= 0 and left >= 0 and top + height <= image.shape[0]
    if not inside or left + width > image.shape[1] or height < 1 or width < 1:
        raise ValueError(f"box {box} is not inside an image of shape {image.shape}")
    size = result.shape[0]
    _resample(
        image.reshape(image.shape[0], -1), top, left, height, width, antialias,
        result.reshape(size, -1),
    )  # fmt: skip
