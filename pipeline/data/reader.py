"""Reads batches of images of a split: fetches, decodes and resizes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.cores import available_cores
from pipeline.data.decode.header import Headers
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.images import Boxes, decode_batch, eval_boxes, read_contents
from pipeline.data.preprocess import normalize, row_factors
from pipeline.data.split import Split
from pipeline.errors import SettingsError

Batch = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Reader:
    """Reads the images of a split in two steps, so that a batch is decoded while the next is read.

    Attributes:
      encoded: Whether images are encoded, so that there is something to fetch.
      look: Fetches a batch: index int64 [b] -> the inputs of `decode`.
      decode: Decodes a batch. Takes these inputs and the crop boxes (None for those of
        evaluation), and returns images uint8 [b, S, S, 3] and readable bool [b].
      normalize: Normalizes a batch: images uint8 or float32 [b, S, S, 3], mean and std -> float32.
    """

    encoded: bool
    look: Callable[[tf.Tensor], Batch]
    decode: Callable[[Batch, Boxes | None], tuple[tf.Tensor, tf.Tensor]]
    normalize: Callable[[tf.Tensor, Sequence[float], Sequence[float]], tf.Tensor] = normalize


def make_reader(
    split: Split, config: DataConfig, piece_size: int, skipped: SkippedImages | None
) -> Reader:
    """Creates the reader of a split whose images are in memory or in files.

    Args:
      split: The examples.
      config: Size, resizing, threads.
      piece_size: Number of images in a batch.
      skipped: Records files that were left out, with data.on_bad_image=skip.

    Raises:
      SettingsError: Images in memory have the wrong size.
    """
    if split.images is not None:
        return _memory_reader(split, config)
    found = SkippedImages() if skipped is None else skipped
    parallel = config.threads or available_cores()

    def look(index: tf.Tensor) -> Batch:
        contents, headers = read_contents(split, index, piece_size, parallel)
        return {"contents": contents, **headers._asdict()}

    def decode(batch: Batch, boxes: Boxes | None) -> tuple[tf.Tensor, tf.Tensor]:
        seen = eval_boxes(config) if boxes is None else boxes
        index, contents = batch["index"], batch["contents"]
        headers = Headers(*(batch[name] for name in Headers._fields))
        due = _due(batch, config)
        return decode_batch(
            split, index, contents, headers, due, seen, piece_size, config, parallel, found
        )

    return Reader(True, look, decode, _normalize)


def _due(batch: Batch, config: DataConfig) -> tf.Tensor:
    """Returns which images of a batch must be checked for damage, bool [b].

    With data.on_bad_image=raise, a damaged image ends training in the first epoch, so later epochs
    need no check. With skip, every process must find all damaged images.
    """
    if "epoch" in batch and config.on_bad_image == "raise":
        return batch["epoch"] == 0
    return tf.ones_like(batch["index"], tf.bool)


def _memory_reader(split: Split, config: DataConfig) -> Reader:
    height, width = split.images.shape[1:3]  # type: ignore[union-attr]
    size, mode = config.image_size, config.resize
    if mode == "none" and (height, width) != (size, size):
        raise SettingsError(
            f"{split.title} has images of {width} x {height} pixels, but data.resize=none and "
            f"data.image_size={size}. Set data.resize=squash, or data.image_size to the size of "
            "the images"
        )
    # The graph captures an eager tensor. A constant would be copied into the graph, whose size is
    # limited to 2 GiB.
    with tf.device("CPU:0"):
        pixels = tf.constant(split.images)

    def resized(images: npt.NDArray[np.uint8], boxes: npt.NDArray[np.int32]) -> Any:
        from pipeline.data.resample import resample_batch  # numba is slow to import

        return resample_batch(images, boxes, size, config.antialias)

    def decode(batch: Batch, boxes: Boxes | None) -> tuple[tf.Tensor, tf.Tensor]:
        index = batch["index"]
        images = tf.gather(pixels, index)  # [b, H, W, 3]
        if mode != "none":
            count = tf.size(index)
            sizes = tf.tile([[height, width]], [count, 1])
            chosen = (eval_boxes(config) if boxes is None else boxes)(sizes, tf.range(count))
            images = tf.numpy_function(resized, [images, chosen], tf.uint8, stateful=False)
            images = tf.ensure_shape(images, [index.shape[0], size, size, 3])
        return images, tf.ones_like(index, tf.bool)

    return Reader(False, lambda index: {}, decode, normalize if mode == "none" else _normalize)


def _normalize(images: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
    """`normalize` for readers that use numba anyway."""
    if images.dtype != tf.uint8:
        return normalize(images, mean, std)
    scale, offset = row_factors(images.shape[2], mean, std)

    def normalized(images: npt.NDArray[np.uint8]) -> Any:
        from pipeline.data.normalize import normalize_batch  # numba is slow to import

        return normalize_batch(images, scale, offset)

    result = tf.numpy_function(normalized, [images], tf.float32, stateful=False)
    return tf.ensure_shape(result, images.shape)
