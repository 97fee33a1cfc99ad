"""Batches of a split's images, fetched, then decoded and resized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.cores import available_cores
from pipeline.data.decode.damage import find_damaged
from pipeline.data.decode.header import Headers
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.images import Boxes, decode_batch, eval_boxes, read_contents
from pipeline.data.preprocess import resize, resize_box
from pipeline.data.split import Split
from pipeline.errors import SettingsError

Batch = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Reader:
    """How the images of a split are had, in two steps, so that one batch is decoded while the next
    is fetched.

    Attributes:
      encoded: Whether there is anything to fetch.
      look: index int64 [b] to what `decode` needs of it.
      decode: A batch with that, and the part of each image that is seen (None: what evaluation
        sees), to images uint8 [b, S, S, 3] and readable bool [b].
    """

    encoded: bool
    look: Callable[[tf.Tensor], Batch]
    decode: Callable[[Batch, Boxes | None], tuple[tf.Tensor, tf.Tensor]]


def make_reader(
    split: Split, config: DataConfig, piece_size: int, skipped: SkippedImages | None
) -> Reader:
    """How the images of a split are had: from memory, or from files.

    Args:
      split: The examples.
      config: Size, resizing, threads.
      piece_size: Images of a batch.
      skipped: Is told which files were left out, with data.on_bad_image=skip.

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
        damaged = find_damaged(
            split, index, contents, headers, due, config.max_pixels, parallel, found
        )
        return decode_batch(
            split, index, contents, headers, damaged, seen, piece_size, config, parallel, found
        )

    return Reader(True, look, decode)


def _due(batch: Batch, config: DataConfig) -> tf.Tensor:
    """Which images of a batch may have to be examined for damage, bool [b].

    A damaged image ends training in its first epoch, so that later ones need not look; where it is
    left out instead, each process has to know it.
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
            f"data.image_size={size}. Set data.resize=squash, or the size the images have"
        )
    # An eager tensor that the graph captures; as a constant of the graph it would be copied into
    # it, and a graph holds 2 GiB at most.
    with tf.device("CPU:0"):
        pixels = tf.constant(split.images)
    whole = eval_boxes(config)(tf.constant([[height, width]]), tf.constant([0]))
    top, left, box_height, box_width = whole[0].numpy().tolist()

    def decode(batch: Batch, boxes: Boxes | None) -> tuple[tf.Tensor, tf.Tensor]:
        index = batch["index"]
        images = tf.gather(pixels, index)  # [b, H, W, 3]
        if boxes is None:
            images = images[:, top : top + box_height, left : left + box_width]
            images = resize(images, size, config.antialias)
        else:
            sizes = tf.tile([[height, width]], [tf.size(index), 1])
            images = tf.map_fn(
                lambda pair: resize_box(pair[0], pair[1], size, mode, config.antialias),
                (images, boxes(sizes, tf.range(tf.size(index)))),
                fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
            )
        return images, tf.ones_like(index, tf.bool)

    return Reader(False, lambda index: {}, decode)
