"""RandAugment's operations on single images, in their place. numba compiles them.

An image is processed while it is in the processor's cache, and only by the operations that were
drawn for it. The results equal Pillow's, byte for byte. Geometric operations use the nearest pixel,
as Pillow, torchvision, big_vision and the published code of AutoAugment and RandAugment do.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.data.native import compiled

# Indices into the names in rand_augment.py. Those that follow are geometric.
(
    _IDENTITY, _AUTOCONTRAST, _EQUALIZE, _POSTERIZE, _SOLARIZE, _BRIGHTNESS, _CONTRAST, _COLOR,
    _SHARPNESS,
) = range(9)  # fmt: skip

FILL = 128
# Coordinates are in units of 1/65,536 pixel, as in Pillow.
FRACTION_BITS = 16
_ENHANCEMENT, _POSTERIZED_BITS = np.float32(0.9), np.float32(4)

_IMAGE, _BYTES = numba.uint8[:, :, ::1], numba.uint8[::1]
_FLOAT, _INT = numba.float32, numba.int64
_COUNTS, _TABLES, _PLACES = numba.int64[:, ::1], numba.uint8[:, ::1], numba.int64[::1]


@compiled(_FLOAT(_FLOAT, _FLOAT, _FLOAT))
def _blend(one, other, factor):  # type: ignore[no-untyped-def]
    """one + factor * (other - one), in 0..255."""
    value = one + factor * (other - one)
    return min(max(value, np.float32(0)), np.float32(255))


@compiled(_INT(_INT, _INT, _INT))
def _gray(red, green, blue):  # type: ignore[no-untyped-def]
    """The luma of ITU-R BT.601 with Pillow's weights and rounding."""
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


@compiled(_COUNTS(_IMAGE))
def _histogram(image):  # type: ignore[no-untyped-def]
    counts = np.zeros((3, 256), np.int64)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for color in range(3):
                counts[color, image[row, column, color]] += 1
    return counts


@compiled(numba.void(_IMAGE, _TABLES))
def _look_up(image, tables):  # type: ignore[no-untyped-def]
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for color in range(3):
                image[row, column, color] = tables[color, image[row, column, color]]


@compiled(numba.void(_IMAGE))
def autocontrast(image):  # type: ignore[no-untyped-def]
    """Stretches the range of each channel to 0..255: uint8 [H, W, 3]."""
    counts, tables = _histogram(image), np.empty((3, 256), np.uint8)
    for color in range(3):
        found = np.flatnonzero(counts[color])
        low, high = found[0], found[-1]
        # Use Pillow's formula and precision. The results are often exact integers and are rounded
        # down, so another formula or precision would give other levels.
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = low * scale if high > low else 0.0
        for level in range(low, high + 1):
            tables[color, level] = np.uint8(int(level * scale - offset))
    _look_up(image, tables)


@compiled(numba.void(_IMAGE))
def equalize(image):  # type: ignore[no-untyped-def]
    """Equalizes the histogram of each channel: uint8 [H, W, 3]."""
    counts, tables = _histogram(image), np.empty((3, 256), np.uint8)
    for color in range(3):
        highest = np.flatnonzero(counts[color])[-1]
        step = (counts[color].sum() - counts[color, highest]) // 255
        before = 0
        for level in range(256):
            tables[color, level] = min((step // 2 + before) // step, 255) if step else level
            before += counts[color, level]
    _look_up(image, tables)


@compiled(numba.void(_BYTES, _INT))
def posterize(pixels, bits):  # type: ignore[no-untyped-def]
    """Sets the lowest bits to 0: uint8 [N]."""
    kept = np.uint8(256 - (1 << bits))
    for place in range(pixels.size):
        pixels[place] &= kept


@compiled(numba.void(_BYTES, _INT))
def solarize(pixels, threshold):  # type: ignore[no-untyped-def]
    """Inverts all levels that are at least a threshold, 0 to 256: uint8 [N]."""
    for place in range(pixels.size):
        if pixels[place] >= threshold:
            pixels[place] = 255 - pixels[place]


@compiled(numba.void(_BYTES, _FLOAT, _FLOAT))
def _enhance(pixels, one, factor):  # type: ignore[no-untyped-def]
    """Interpolates between one level (factor 0) and the image (1), or extrapolates: uint8 [N]."""
    for place in range(pixels.size):
        pixels[place] = np.uint8(np.int32(_blend(one, np.float32(pixels[place]), factor)))


@compiled(_FLOAT(_IMAGE))
def _mean_gray(image):  # type: ignore[no-untyped-def]
    total = 0
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            red, green, blue = image[row, column]
            total += _gray(red, green, blue)
    return np.float32(np.floor(total / (image.shape[0] * image.shape[1]) + 0.5))


@compiled(numba.void(_IMAGE, _FLOAT))
def _saturate(image, factor):  # type: ignore[no-untyped-def]
    """Interpolates between grayscale (factor 0) and the image (1), or extrapolates."""
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            pixel = image[row, column]
            gray = np.float32(_gray(pixel[0], pixel[1], pixel[2]))
            for color in range(3):
                pixel[color] = np.uint8(np.int32(_blend(gray, np.float32(pixel[color]), factor)))


@compiled(numba.void(_BYTES, _BYTES, _BYTES, _FLOAT, numba.int32[::1], _BYTES))
def _sharpen_row(above, here, below, factor, totals, result):  # type: ignore[no-untyped-def]
    """Sharpens a row without its ends: uint8 [W * 3], totals int32 [(W - 2) * 3]."""
    # Slices, because LLVM does not vectorize an index that numba takes for a negative one.
    pixels, changed = here[3:-3], result[3:-3]
    for place in range(totals.size):
        totals[place] = np.int32(4) * np.int32(pixels[place])
    for row in (above, here, below):
        left, middle, right = row[:-6], row[3:-3], row[6:]
        for place in range(totals.size):
            totals[place] += np.int32(left[place]) + np.int32(middle[place])
            totals[place] += np.int32(right[place])
    for place in range(totals.size):
        smooth = np.floor(np.float32(totals[place]) / np.float32(13) + np.float32(0.5))
        changed[place] = np.uint8(np.int32(_blend(smooth, np.float32(pixels[place]), factor)))


@compiled(numba.void(_IMAGE, _IMAGE, _FLOAT))
def _sharpen(image, spare, factor):  # type: ignore[no-untyped-def]
    """Interpolates between an image smoothed by Pillow's SMOOTH (factor 0) and the image (1).

    The border does not change.
    """
    height, width = image.shape[0], image.shape[1] * 3
    if width < 9:
        return
    spare[:] = image
    rows, changed = spare.reshape(height, width), image.reshape(height, width)
    totals = np.empty(width - 6, np.int32)
    for row in range(1, height - 1):
        _sharpen_row(rows[row - 1], rows[row], rows[row + 1], factor, totals, changed[row])


@compiled(numba.void(_IMAGE, _IMAGE, _PLACES))
def transform(image, spare, places):  # type: ignore[no-untyped-def]
    """Moves pixels as Pillow's `Image.transform(size, AFFINE, matrix, NEAREST)` does.

    Args:
      image: uint8 [H, W, 3].
      spare: Memory of the same shape.
      places: int64 [6], a to f in units of 1/65,536: the pixel (x, y) of the result is the pixel
        (a x + b y + c, d x + e y + f) of the image, where c and f are those of its center. Pixels
        from outside the image are FILL.
    """
    height, width = image.shape[:2]
    spare[:] = image
    source, result = spare.reshape(spare.size), image.reshape(image.size)
    a, b, c, d, e, f = places
    for y in range(height):
        start_x, start_y, start = b * y + c, e * y + f, y * width * 3
        for x in range(width):
            column, row = (start_x + a * x) >> FRACTION_BITS, (start_y + d * x) >> FRACTION_BITS
            place = start + 3 * x
            if 0 <= row < height and 0 <= column < width:
                pixel = (row * width + column) * 3
                result[place] = source[pixel]
                result[place + 1] = source[pixel + 1]
                result[place + 2] = source[pixel + 2]
            else:
                result[place] = result[place + 1] = result[place + 2] = FILL


@compiled(numba.void(_IMAGE, _IMAGE, _INT, _FLOAT, _PLACES))
def _change(image, spare, operation, strength, places):  # type: ignore[no-untyped-def]
    pixels, factor = image.reshape(image.size), np.float32(1) + _ENHANCEMENT * strength
    if operation == _IDENTITY:
        return
    if operation == _AUTOCONTRAST:
        autocontrast(image)
    elif operation == _EQUALIZE:
        equalize(image)
    elif operation == _POSTERIZE:
        posterize(pixels, int(np.rint(abs(strength) * _POSTERIZED_BITS)))
    elif operation == _SOLARIZE:
        solarize(pixels, int(np.ceil(np.float32(256) * (np.float32(1) - abs(strength)))))
    elif operation == _BRIGHTNESS:
        _enhance(pixels, np.float32(0), factor)
    elif operation == _CONTRAST:
        _enhance(pixels, _mean_gray(image), factor)
    elif operation == _COLOR:
        _saturate(image, factor)
    elif operation == _SHARPNESS:
        _sharpen(image, spare, factor)
    else:
        transform(image, spare, places)


@compiled(numba.void(numba.uint8[:, :, :, ::1], numba.int32[:, :], numba.float32[:, :],
                     numba.int64[:, :, ::1]))  # fmt: skip
def change_batch(images, operations, strengths, places):  # type: ignore[no-untyped-def]
    """Applies operations to each image, one after another.

    Args:
      images: uint8 [B, H, W, 3], which are changed.
      operations: int32 [layers, B], numbers of operations.
      strengths: float32 [layers, B] in [-1, 1].
      places: int64 [layers, B, 6], the argument of `transform` for geometric operations.
    """
    spare = np.empty(images.shape[1:], np.uint8)
    for number in range(images.shape[0]):
        for layer in range(operations.shape[0]):
            _change(images[number], spare, operations[layer, number], strengths[layer, number],
                    places[layer, number])  # fmt: skip
