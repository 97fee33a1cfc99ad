"""Resizes a part of an image with a triangle filter. numba compiles it to native code.

It gives the same bits as `preprocess.resize`, and on every processor (filter_steps.py).

The vertical pass sums rows of pixels. For the horizontal pass, a band of rows is transposed, so
that the same pixel of all rows lies side by side and one weight applies to many numbers.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from pipeline.data.filter_steps import FEW, LEVEL, ROUNDING, TAPS, UNIT
from pipeline.data.lanes import (
    LANES,
    add_bytes,
    add_words,
    sum_bytes,
    sum_words,
    transpose_bytes,
    transpose_words,
)  # fmt: skip
from pipeline.data.native import compiled

# Number of rows of a band, a multiple of LANES. A band fits in the first two caches.
_BAND = 32

_INT, _BOOL = numba.int64, numba.boolean
_INTS, _WORDS, _WORD_ROWS = numba.int64[::1], numba.uint16[::1], numba.uint16[:, ::1]
_FILTER: Any = numba.types.Tuple  # it has no annotations
_ROWS = numba.types.Array(numba.uint8, 2, "C", readonly=True)
_BYTE_ROWS = numba.uint8[:, ::1]


@compiled(_FILTER((_INTS, _INTS, _WORD_ROWS))(_INT, _INT, _BOOL))
def _filter(length, size, antialias):  # type: ignore[no-untyped-def]
    """First pixel, number of pixels and weights of each result, [size], [size] and [size, taps].

    The triangle has its center at the result and reaches to the neighbours of the result, or of the
    pixel if the image grows. Its values at the pixels inside the image are divided by their sum.
    """
    scale = length / size
    reach = max(scale, 1.0) if antialias else 1.0
    most = int(2 * reach) + 2
    taps = -(-most // TAPS) * TAPS
    first, count = np.zeros(size, np.int64), np.zeros(size, np.int64)
    weights = np.zeros((size, taps), np.uint16)
    for place in range(size):
        center = (place + 0.5) * scale - 0.5
        low = max(int(np.ceil(center - reach)), 0)
        high = min(int(np.floor(center + reach)), length - 1)
        total = 0.0
        for pixel in range(low, high + 1):
            total += max(1 - abs(pixel - center) / reach, 0.0)
        # Rounding the running sum keeps the sum of the weights at exactly UNIT.
        reached, before = 0.0, 0
        for pixel in range(low, high + 1):
            reached += max(1 - abs(pixel - center) / reach, 0.0)
            now = int(np.floor(reached / total * UNIT + ROUNDING))
            weights[place, pixel - low] = now - before
            before = now
        first[place], count[place] = low, high + 1 - low
    return first, count, weights


@compiled(numba.void(_ROWS, _INT, _INT, _INTS, _INTS, _WORD_ROWS, _WORD_ROWS))
def _vertical(rows, left, width, first, count, weights, band):  # type: ignore[no-untyped-def]
    """The rows of a band: weighted sums of rows. Numbers from `left` on, `width` of them."""
    distance, last = rows.shape[1], rows.shape[0] - 1
    start = rows.ctypes.data + left
    # Vectors may reach beyond the end of a row, but not beyond that of the image.
    spare = np.zeros(width, np.uint8)
    inside = min(width, distance - left)
    spare[:inside] = rows[last, left : left + inside]
    for place in range(first.size):
        sums = band.ctypes.data + place * band.shape[1] * 2
        for tap in range(0, count[place], TAPS):
            row = first[place] + tap
            a = start + row * distance if row < last else spare.ctypes.data
            b = start + (row + 1) * distance if row + 1 < last else spare.ctypes.data
            c = start + (row + 2) * distance if row + 2 < last else spare.ctypes.data
            d = start + (row + 3) * distance if row + 3 < last else spare.ctypes.data
            weight_a, weight_b = weights[place, tap], weights[place, tap + 1]
            weight_c, weight_d = weights[place, tap + 2], weights[place, tap + 3]
            for n in range(0, width, LANES):
                if tap:
                    add_bytes(a + n, b + n, c + n, d + n, weight_a, weight_b, weight_c, weight_d,
                              sums + 2 * n)  # fmt: skip
                else:
                    sum_bytes(a + n, b + n, c + n, d + n, weight_a, weight_b, weight_c, weight_d,
                              sums + 2 * n)  # fmt: skip


@compiled(numba.void(_ROWS, _INT, _INT, _INTS, _INTS, _WORD_ROWS, _WORD_ROWS))
def _vertical_of_many(rows, left, width, first, count, weights, band):  # type: ignore[no-untyped-def]
    """`_vertical` for many weights. The sums are rounded, but not their products."""
    inside = min(width, rows.shape[1] - left)
    sums = np.empty(inside, np.uint32)
    for place in range(first.size):
        sums[:] = 0
        for tap in range(count[place]):
            row, weight = rows[first[place] + tap], np.uint32(weights[place, tap])
            for n in range(inside):
                sums[n] += row[left + n] * weight
        for n in range(inside):
            band[place, n] = (np.uint64(sums[n]) + LEVEL // 2) // LEVEL


@compiled(numba.void(_WORD_ROWS, _WORD_ROWS))
def _transpose(band, turned):  # type: ignore[no-untyped-def]
    """[_BAND, N] -> [N, _BAND], where N is a multiple of LANES."""
    width = band.shape[1]
    for row in range(0, _BAND, LANES):
        for place in range(0, width, LANES):
            transpose_words(
                band.ctypes.data + (row * width + place) * 2, width * 2,
                turned.ctypes.data + (place * _BAND + row) * 2, _BAND * 2,
            )  # fmt: skip


@compiled(numba.void(_WORD_ROWS, _INTS, _INTS, _WORD_ROWS, _WORD_ROWS))
def _horizontal(turned, first, count, weights, sums):  # type: ignore[no-untyped-def]
    """The sums of a band: [W * 3, _BAND] -> [size, 3 * _BAND]."""
    pixel = 3 * _BAND * 2
    for place in range(first.size):
        total = sums.ctypes.data + place * pixel
        for tap in range(0, count[place], TAPS):
            a = turned.ctypes.data + (first[place] + tap) * pixel
            b, c, d = a + pixel, a + 2 * pixel, a + 3 * pixel
            weight_a, weight_b = weights[place, tap], weights[place, tap + 1]
            weight_c, weight_d = weights[place, tap + 2], weights[place, tap + 3]
            for n in range(0, pixel, 2 * LANES):
                if tap:
                    add_words(a + n, b + n, c + n, d + n, weight_a, weight_b, weight_c, weight_d,
                              total + n)  # fmt: skip
                else:
                    sum_words(a + n, b + n, c + n, d + n, weight_a, weight_b, weight_c, weight_d,
                              total + n)  # fmt: skip


@compiled(numba.void(_WORDS, _INTS, _INTS, _WORD_ROWS, _WORD_ROWS))
def _horizontal_of_many(turned, first, count, weights, sums):  # type: ignore[no-untyped-def]
    """`_horizontal` for many weights: [W * 3 * _BAND] -> [size, 3 * _BAND]."""
    pixel = 3 * _BAND
    total = np.empty(pixel, np.uint64)
    for place in range(first.size):
        total[:] = 0
        for tap in range(count[place]):
            start, weight = (first[place] + tap) * pixel, np.uint64(weights[place, tap])
            for n in range(pixel):
                total[n] += turned[start + n] * weight
        for n in range(pixel):
            sums[place, n] = (total[n] + (UNIT + 1) // 2) // (UNIT + 1)


@compiled(numba.void(_WORD_ROWS, _INT, _BYTE_ROWS, _BYTE_ROWS))
def _store(sums, added, values, rows):  # type: ignore[no-untyped-def]
    """Rounds to levels and transposes: [N, _BAND] -> [n, N], where n is at most _BAND."""
    width = rows.shape[1]
    for place in range(width):
        for row in range(_BAND):
            values[place, row] = (np.uint32(sums[place, row]) + added) // LEVEL
    whole_rows, whole = rows.shape[0] // LANES * LANES, width // LANES * LANES
    for row in range(0, whole_rows, LANES):
        for place in range(0, whole, LANES):
            transpose_bytes(
                values.ctypes.data + place * _BAND + row, _BAND,
                rows.ctypes.data + row * width + place, width,
            )  # fmt: skip
    for row in range(rows.shape[0]):
        for place in range(whole if row < whole_rows else 0, width):
            rows[row, place] = values[place, row]


@compiled(numba.void(_ROWS, _INT, _INT, _INT, _INT, _BOOL, _BYTE_ROWS))
def _resample(rows, top, left, height, width, antialias, result):  # type: ignore[no-untyped-def]
    """Resizes rows uint8 [H, W * 3], where W is at least LANES."""
    size = result.shape[0]
    inside = rows[top : top + height]
    first_row, row_count, row_weights = _filter(height, size, antialias)
    first, count, weights = _filter(width, size, antialias)
    few_rows, few = row_weights.shape[1] <= FEW, weights.shape[1] <= FEW
    added = LEVEL // 2 + few_rows * row_weights.shape[1] // 2 + few * weights.shape[1] // 2
    reached = -(-width * 3 // LANES) * LANES
    band = np.zeros((_BAND, reached), np.uint16)
    # The taps after the last pixel have the weight 0.
    turned = np.zeros((reached + weights.shape[1] * 3, _BAND), np.uint16)
    sums = np.empty((size, 3 * _BAND), np.uint16)
    values = np.empty((size * 3, _BAND), np.uint8)
    for start in range(0, size, _BAND):
        end = min(start + _BAND, size)
        bounds = first_row[start:end], row_count[start:end], row_weights[start:end]
        if few_rows:
            _vertical(inside, left * 3, reached, *bounds, band)
        else:
            _vertical_of_many(inside, left * 3, reached, *bounds, band)
        _transpose(band, turned)
        if few:
            _horizontal(turned, first, count, weights, sums)
        else:
            _horizontal_of_many(turned.reshape(turned.size), first, count, weights, sums)
        _store(sums.reshape(size * 3, _BAND), added, values, result[start:end])


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
    if image.shape[1] < LANES:
        image = np.pad(image, ((0, 0), (0, LANES - image.shape[1]), (0, 0)))
    rows, results = image.reshape(len(image), -1), result.reshape(len(result), -1)
    _resample(rows, top, left, height, width, antialias, results)
