"""Decodes and resizes JPEGs in threads that do not hold the interpreter lock.

Pixels are those of `tf.io.decode_jpeg` with dct_method="INTEGER_ACCURATE", because both use
libjpeg-turbo. simplejpeg brings a newer one, which is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import simplejpeg
import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.data.decode.integrity import check_cost
from pipeline.data.decode.problems import DAMAGED, UNKNOWN, WHOLE
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.preprocess import MARGIN, reduction

_JPEG_MARKER = b"\xff\xd8\xff"
# TensorFlow can decode a part of a JPEG. A larger part takes longer than the whole does with
# simplejpeg.
_MOST_OF_AREA = 0.5

Pixels = npt.NDArray[np.uint8]
# index int64 [b], contents object [b], which ones are wanted bool [b], which ones may need a check
# for damage bool [b], boxes and sizes of the stored images int32 [b, 4] and [b, 2] -> images uint8
# [b, S, S, 3], which ones are decoded bool [b].
DecodeJpegs = Callable[..., tuple[Pixels, npt.NDArray[np.bool_]]]


def make_decoder(config: DataConfig, states: npt.NDArray[np.uint8], parallel: int) -> DecodeJpegs:
    """Returns a function that decodes and resizes the JPEGs of a batch.

    Images of other formats, and JPEGs that simplejpeg cannot decode without a warning, remain
    undecoded. A JPEG that it decodes needs no other check for damage (`damage.py`), because it
    reads all of it.

    Args:
      config: Size, resizing, and the most pixels.
      states: `SkippedImages.states` of the split.
      parallel: Number of threads.
    """
    size = config.image_size
    pool = ThreadPoolExecutor(parallel, thread_name_prefix="decode")

    def may_decode(content: bytes, state: int) -> bool:
        if state != UNKNOWN:
            return state != DAMAGED
        try:
            check_cost(content, config.max_pixels)
        except UnreadableError:
            return False
        return True

    def decode(
        index: npt.NDArray[np.int64],
        contents: npt.NDArray[np.object_],
        wanted: npt.NDArray[np.bool_],
        due: npt.NDArray[np.bool_],
        boxes: npt.NDArray[np.int32],
        sizes: npt.NDArray[np.int32],
    ) -> tuple[Pixels, npt.NDArray[np.bool_]]:
        images = np.zeros((len(contents), size, size, 3), np.uint8)

        def decode_at(place: int) -> bool:
            content, example = contents[place], index[place]
            if due[place] and not may_decode(content, states[example]):
                return False
            box, stored = tuple(boxes[place].tolist()), tuple(sizes[place].tolist())
            is_whole = not due[place]
            done = decode_box(content, box, stored, images[place], config, is_whole)
            if done and due[place]:
                states[example] = WHOLE
            return done

        decoded = np.zeros(len(contents), np.bool_)
        places = np.flatnonzero(wanted)
        decoded[places] = list(pool.map(decode_at, places.tolist()))
        return images, decoded

    return decode


def decode_box(
    content: bytes,
    box: tuple[int, ...],
    stored: tuple[int, ...],
    result: Pixels,
    config: DataConfig,
    is_whole: bool = False,
) -> bool:
    """Decodes a JPEG and resizes the part of it inside a box.

    Args:
      content: The encoded image.
      box: Top, left, height and width in the stored image.
      stored: Height and width of the stored image.
      result: Receives the pixels, uint8 [S, S, 3].
      config: Resizing.
      is_whole: Whether the image is known not to be damaged. Then a small box is decoded alone,
        with the same pixels.

    Returns:
      Whether it was decoded. Otherwise, it is another kind of file, or needs a repair.
    """
    if not content.startswith(_JPEG_MARKER):
        return False
    shrink = reduction(min(box[2:]), len(result), config.resize)
    if is_whole and box[2] * box[3] < _MOST_OF_AREA * stored[0] * stored[1]:
        part = _decode_part(content, box, stored, shrink)
        if part is not None:
            return _resize(*part, result, config)
    try:
        # The smallest size that is not below these is the one that is reduced `shrink` times.
        least = {} if shrink == 1 else {
            "min_height": -(-stored[0] // shrink), "min_width": -(-stored[1] // shrink)
        }  # fmt: skip
        if simplejpeg.decode_jpeg_header(content)[:2] != stored:
            return False  # the file has several frame headers
        image = simplejpeg.decode_jpeg(content, "RGB", **least)
    except (ValueError, MemoryError):
        return False
    return _resize(image, _reduced(box, shrink), result, config)


def _decode_part(
    content: bytes, box: tuple[int, ...], stored: tuple[int, ...], shrink: int
) -> tuple[Pixels, tuple[int, int, int, int]] | None:
    """Decodes only the box. Returns pixels, and the box in them; None if TensorFlow cannot."""
    top, left, height, width = _reduced(box, shrink)
    start = max(left - MARGIN, 0)
    end = min(left + width + MARGIN, -(-stored[1] // shrink))
    try:
        # This may run in a thread of tf.data, where TensorFlow would otherwise use the GPU.
        with tf.device("CPU:0"):
            part = tf.raw_ops.DecodeAndCropJpeg(
                contents=content, crop_window=[top, start, height, end - start], channels=3,
                ratio=shrink, dct_method="INTEGER_ACCURATE",
            )  # fmt: skip
    except tf.errors.OpError:
        return None
    image = np.frombuffer(memoryview(part), np.uint8).reshape(part.shape)
    return image, (0, left - start, height, width)


def _reduced(box: tuple[int, ...], shrink: int) -> tuple[int, int, int, int]:
    """The box in the reduced image, rounded outwards to whole pixels."""
    top, left, height, width = box
    bottom, right = -(-(top + height) // shrink), -(-(left + width) // shrink)
    top, left = top // shrink, left // shrink
    return top, left, bottom - top, right - left


def _resize(
    image: Pixels, box: tuple[int, int, int, int], result: Pixels, config: DataConfig
) -> bool:
    top, left, height, width = box
    if (height, width) == result.shape[:2]:
        result[:] = image[top : top + height, left : left + width]
    elif config.resize == "none":
        return False
    else:
        from pipeline.data.resample import resample  # numba is slow to import

        resample(image, box, result, config.antialias)
    return True
