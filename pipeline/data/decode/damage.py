"""Finds the images of a batch that are damaged or too large to be decoded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.data.decode.header import Headers
from pipeline.data.decode.integrity import check_jpeg
from pipeline.data.decode.problems import DAMAGED, UNKNOWN, WHOLE, SkippedImages
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.split import Split


def find_damaged(
    split: Split,
    index: tf.Tensor,
    contents: tf.Tensor,
    headers: Headers,
    due: tf.Tensor,
    max_pixels: int,
    parallel: int,
    skipped: SkippedImages,
) -> tf.Tensor:
    """Checks complete JPEGs for damage, unless this process has already checked them.

    Decoding a part of a JPEG detects damage only in that part. But the same images must be left out
    in every epoch, by every process and after every restart. So each process checks an image before
    it is used for the first time. The result depends only on the bytes of the image. `jpeg.py` has
    decoded most JPEGs as a whole and without a warning, and then they need no check.

    Args:
      split: Files or records.
      index: int64 [b].
      contents: string [b].
      headers: The headers of `contents`.
      due: bool [b], images that may need a check.
      max_pixels: Images that declare more are not decoded; `decode_batch` refuses them.
      parallel: Number of images that are checked in parallel.
      skipped: Stores states and libjpeg's warnings.

    Returns:
      bool [b], which images are damaged.
    """
    states = skipped.states(split)

    def examine_one(example: int, content: bytes) -> None:
        try:
            warning = check_jpeg(content, max_pixels)
        except UnreadableError:
            states[example] = DAMAGED
            return
        states[example] = WHOLE
        if warning is not None:
            skipped.add_repaired(split.name(example), warning)

    def examine(
        examples: npt.NDArray[np.int64], found: npt.NDArray[np.object_], new: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.uint8]:
        with ThreadPoolExecutor(parallel) as pool:
            list(pool.map(examine_one, examples[new].tolist(), found[new]))
        return states[examples]

    def look() -> tf.Tensor:
        known = tf.numpy_function(lambda places: states[places], [index], tf.uint8)
        new = due & headers.by_tensorflow & (known == UNKNOWN) & (contents != "")
        new &= fit(headers, max_pixels)
        return tf.cond(
            tf.reduce_any(new),
            lambda: tf.numpy_function(examine, [index, tf.where(new, contents, ""), new], tf.uint8),
            lambda: known,
        )

    found = tf.cond(
        tf.reduce_any(due), look, lambda: tf.fill(tf.shape(due), tf.constant(WHOLE, tf.uint8))
    )
    return tf.ensure_shape(found, due.shape) == DAMAGED


def fit(headers: Headers, max_pixels: int) -> tf.Tensor:
    """Returns which images declare at most `max_pixels`, bool [b]."""
    sizes = tf.cast(headers.sizes, tf.int64)
    # A PNG may declare a side of 2**32 - 1, which is -1 here; the product of two would be 1.
    return tf.reduce_all(sizes >= 0, axis=1) & (tf.reduce_prod(sizes, axis=1) <= max_pixels)
