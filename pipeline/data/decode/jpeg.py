"""Decodes and resizes JPEGs in threads that do not hold the interpreter lock.

Pixels are those of `tf.io.decode_jpeg` with dct_method="INTEGER_ACCURATE", because both use
libjpeg-turbo. simplejpeg brings a newer one, which takes 0.6 of the time for a whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.config import DataConfig
from pipeline.data.preprocess import reduction
from pipeline.data.resample import resample

_JPEG_MARKER = b"\xff\xd8\xff"

Pixels = npt.NDArray[np.uint8]
# Contents object [b], which ones are wanted bool [b], boxes and sizes of the stored images int
# [b, 4] and [b, 2] -> images uint8 [b, S, S, 3], which ones are decoded bool [b].
DecodeJpegs = Callable[..., tuple[Pixels, npt.NDArray[np.bool_]]]


def make_decoder(config: DataConfig, parallel: int) -> DecodeJpegs:
    """Returns a function that decodes and resizes the JPEGs of a batch.

    Images of other formats, and JPEGs that simplejpeg cannot decode without a warning, remain
    undecoded.

    Args:
      config: Size and resizing.
      parallel: Number of threads.
    """
    size = config.image_size
    pool = ThreadPoolExecutor(parallel, thread_name_prefix="decode")

    def decode(
        contents: npt.NDArray[np.object_],
        wanted: npt.NDArray[np.bool_],
        boxes: npt.NDArray[np.int32],
        sizes: npt.NDArray[np.int32],
    ) -> tuple[Pixels, npt.NDArray[np.bool_]]:
        images = np.zeros((len(contents), size, size, 3), np.uint8)

        def decode_at(place: int) -> bool:
            box, stored = tuple(boxes[place].tolist()), tuple(sizes[place].tolist())
            return decode_box(contents[place], box, stored, images[place], config)

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
) -> bool:
    """Decodes a JPEG and resizes the part of it inside a box.

    Args:
      content: The encoded image.
      box: Top, left, height and width in the stored image.
      stored: Height and width of the stored image.
      result: Receives the pixels, uint8 [S, S, 3].
      config: Resizing.

    Returns:
      Whether it was decoded. Otherwise, it is another kind of file, or needs a repair.
    """
    if not content.startswith(_JPEG_MARKER):
        return False
    top, left, height, width = box
    shrink = reduction(min(height, width), len(result), config.resize)
    try:
        # The smallest size that is not below these is the one that is reduced `shrink` times.
        least = {} if shrink == 1 else {
            "min_height": -(-stored[0] // shrink), "min_width": -(-stored[1] // shrink)
        }  # fmt: skip
        image = simplejpeg.decode_jpeg(content, "RGB", **least)
    except (ValueError, MemoryError):
        return False
    if image.shape[:2] != tuple(-(-side // shrink) for side in stored):
        return False  # the file has several frame headers
    # Round outwards to whole pixels of the reduced image.
    top, left, bottom, right = (
        top // shrink, left // shrink, -(-(top + height) // shrink), -(-(left + width) // shrink)
    )  # fmt: skip
    if (bottom - top, right - left) == result.shape[:2]:
        result[:] = image[top:bottom, left:right]
    elif config.resize == "none":
        return False
    else:
        resample(image, (top, left, bottom - top, right - left), result, config.antialias)
    return True
