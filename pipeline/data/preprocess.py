"""From bytes to the input of the model: decode, crop, resize, normalize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.data.filter_steps import FEW, LEVEL, ROUNDING, TAPS, UNIT

# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the box is then still this many times as large
# as the result. Mean difference in levels from decoding at full size, for two photographs resized
# to 1/6 to 1/25: at most 3.1 with a gap of 2, and 2.6 with 3 (3.4 to 21 without antialiasing).
_REDUCING_GAP = 3
_REDUCTIONS = (1, 2, 4, 8)
# The colors of a JPEG are interpolated between neighbouring columns. With this margin, decoding a
# part gives exactly the same pixels as decoding the whole image and cropping. Without it, pixels at
# the edge differ by 16 levels, or by 45 at a sharp edge.
MARGIN = 2

_JPEG_MARKER = b"\xff\xd8\xff"


def decode_box(
    content: tf.Tensor, box: tf.Tensor, width: tf.Tensor, size: int, mode: str, antialias: bool
) -> tf.Tensor:
    """Decodes and resizes the part of a JPEG or PNG inside a box. Only this part is decoded.

    Grayscale becomes RGB, an alpha channel is dropped, and 16 bits are reduced to the 8 highest.
    The EXIF orientation is not applied; upright.py does this for the box and for the result.

    Args:
      content: string scalar.
      box: int32 [4]: top, left, height, width in the stored image.
      width: int32 scalar, width of the stored image.
      size: Height and width of the result.
      mode: As in `data.resize`; "none" only checks the size of the box.
      antialias: Whether to antialias when the image shrinks.

    Returns:
      uint8 [size, size, 3].

    Raises:
      tf.errors.InvalidArgumentError: The image is damaged, or mode is "none" and the size differs.
    """
    is_jpeg = tf.strings.substr(content, 0, 3) == _JPEG_MARKER
    return tf.cond(
        is_jpeg,
        lambda: _decode_jpeg_box(content, box, width, size, mode, antialias),
        lambda: resize_box(_decode_png(content), box, size, mode, antialias),
    )


def reduction(box_side: int, size: int, mode: str) -> int:
    """Returns by how much a JPEG is reduced while it is decoded: 1, 2, 4 or 8.

    Args:
      box_side: The shorter side of the part that is resized.
      size: Height and width of the result.
      mode: As in `data.resize`.
    """
    spare = box_side // (size * _REDUCING_GAP)
    return 1 if mode == "none" else max(r for r in _REDUCTIONS if r <= max(spare, 1))


def resize_box(
    image: tf.Tensor, box: tf.Tensor, size: int, mode: str, antialias: bool
) -> tf.Tensor:
    """Crops an image to a box and resizes it: uint8 [H, W, 3] -> uint8 [size, size, 3]."""
    part = tf.slice(image, tf.pad(box[:2], [[0, 1]]), tf.concat([box[2:], [3]], axis=0))
    if mode == "none":
        return tf.ensure_shape(part, [size, size, 3])
    return resize(part[tf.newaxis], size, antialias)[0]


def resize(images: tf.Tensor, size: int, antialias: bool) -> tf.Tensor:
    """Resizes images to size x size pixels with a triangle filter, as `resample` does.

    Both give the same bits (`filter_steps.py`).

    Args:
      images: uint8 [B, H, W, 3].
      size: Height and width of the result.
      antialias: Whether to antialias when images shrink.

    Returns:
      uint8 [B, size, size, 3].
    """
    if images.shape[1:] == [size, size, 3]:
        return images
    # Products have 32 bits, so float64 holds them exactly.
    values, lost_rows = _sum_pixels(tf.cast(images, tf.float64) * LEVEL, 1, size, antialias)
    values, lost_columns = _sum_pixels(values, 2, size, antialias)
    values = tf.floor((values + lost_rows + lost_columns) / LEVEL + 0.5)
    return tf.ensure_shape(tf.cast(values, tf.uint8), [None, size, size, 3])


def normalize(images: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
    """Returns (images / 255 - mean) / std for each channel.

    Args:
      images: uint8 or float32 [..., W, 3] in 0..255, with static W.
      mean: Three numbers in units of 0..1.
      std: Three numbers in units of 0..1.

    Returns:
      float32 [..., W, 3].
    """
    width = images.shape[-2]
    scale, offset = row_factors(width, mean, std)
    # Process whole rows; broadcasting three numbers over pixels takes six times as long.
    rows = tf.reshape(images, [-1, width * 3])  # [..., W, 3] -> [N, W*3]
    return tf.reshape(tf.cast(rows, tf.float32) * scale + offset, tf.shape(images))


def row_factors(
    width: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns scale and offset of a row of normalized pixels, float32 [W * 3] each."""
    scale = np.array([1.0 / (255.0 * s) for s in std] * width, np.float32)
    offset = np.array([-m / s for m, s in zip(mean, std, strict=True)] * width, np.float32)
    return scale, offset


def _decode_jpeg_box(
    content: tf.Tensor, box: tf.Tensor, width: tf.Tensor, size: int, mode: str, antialias: bool
) -> tf.Tensor:
    def branch(reduction: int) -> tf.Tensor:
        # Round outwards to whole pixels of the reduced image.
        start = box[:2] // reduction
        end = -(-(box[:2] + box[2:]) // reduction)
        # The default cosine transform is fast but inexact: it is off by up to 4 levels. On 2,000
        # CIFAR-10 JPEGs it darkens red and blue by 1.2 levels on average, unlike all other
        # decoders.
        left = tf.maximum(start[1] - MARGIN, 0)
        right = tf.minimum(end[1] + MARGIN, -(-width // reduction))
        part = tf.io.decode_and_crop_jpeg(
            content,
            tf.stack([start[0], left, end[0] - start[0], right - left]),
            channels=3,
            ratio=reduction,
            dct_method="INTEGER_ACCURATE",
        )
        part = part[:, start[1] - left : end[1] - left]
        if mode == "none":
            return tf.ensure_shape(part, [size, size, 3])
        return resize(part[tf.newaxis], size, antialias)[0]

    if mode == "none":
        return branch(1)
    spare = tf.reduce_min(box[2:]) // (size * _REDUCING_GAP)
    number = tf.reduce_sum(tf.cast(spare >= _REDUCTIONS[1:], tf.int32))
    return tf.switch_case(number, [lambda r=r: branch(r) for r in _REDUCTIONS])


def _decode_png(content: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_png(content, channels=3)


def _sum_pixels(
    images: tf.Tensor, axis: int, size: int, antialias: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies the filter along rows (axis 1) or columns (2) of float64 [B, H, W, 3].

    Returns:
      The sums, and what they lack on average.
    """
    length = tf.shape(images)[axis]
    first, weights = _filter(length, size, antialias)
    number = tf.shape(weights)[1]
    few = number <= FEW
    # Products are rounded down to multiples of this.
    unit = tf.cast(tf.where(few, UNIT + 1, 1), tf.float64)
    shape = [size, 1, 1] if axis == 1 else [size, 1]

    def add(total: tf.Tensor, tap: tf.Tensor) -> tf.Tensor:
        pixels = tf.gather(images, tf.minimum(first + tap, length - 1), axis=axis)
        return total + tf.floor(pixels * tf.reshape(weights[:, tap], shape) / unit)

    sides = tf.unstack(tf.shape(images))
    sides[axis] = size
    sums = tf.foldl(add, tf.range(number), tf.zeros(tf.stack(sides), tf.float64))
    lacking = tf.cast(tf.where(few, number // 2, 0), tf.float64)
    return tf.where(few, sums, tf.floor(sums / (UNIT + 1) + 0.5)), lacking


def _filter(length: tf.Tensor, size: int, antialias: bool) -> tf.Tensor:
    """The first pixel and the weights of each result, as in `resample`: [size], [size, taps]."""
    scale = tf.cast(length, tf.float64) / size
    reach = tf.maximum(scale, 1.0) if antialias else tf.ones_like(scale)
    center = (tf.range(size, dtype=tf.float64) + 0.5) * scale - 0.5
    low = tf.maximum(tf.math.ceil(center - reach), 0.0)
    pixel = low[:, tf.newaxis] + tf.range(tf.math.ceil((tf.floor(2 * reach) + 2) / TAPS) * TAPS)
    values = tf.maximum(1 - tf.abs(pixel - center[:, tf.newaxis]) / reach, 0.0)
    values = tf.where(pixel < tf.cast(length, tf.float64), values, 0.0)
    reached = tf.cumsum(values, axis=1)
    units = tf.floor(reached / reached[:, -1:] * UNIT + ROUNDING)
    return tf.cast(low, tf.int32), units - tf.pad(units[:, :-1], [[0, 0], [1, 0]])
