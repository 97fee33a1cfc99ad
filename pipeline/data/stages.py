"""The functions of a dataset: look up, decode and finish the examples of an element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.data.augment.augment import augment, erase_some
from pipeline.data.augment.custom import apply_augmentations, load_augmentations
from pipeline.data.augment.mix import mix, one_hot
from pipeline.data.crop_box import random_box
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.images import Boxes
from pipeline.data.order import positions_to_examples
from pipeline.data.reader import Batch, make_reader
from pipeline.data.split import Split, check_labels


class Stages(NamedTuple):
    """Functions that are applied in turn to the position of the first example of an element.

    They do not depend on the process, so that later datasets can use them again. Tracing them takes
    most of the time to make a dataset: 0.36 of 0.5 s with the recipe digits.

    Attributes:
      look: Finds the examples: a position int64 -> index, epoch and what the reader needs.
      decode: Reads and decodes the images.
      finish: Augments or only normalizes the images, and adds labels.
      encoded: Whether images are encoded, so that there is something to fetch.
    """

    look: Callable[[Any], Batch]
    decode: Callable[[Any], Batch]
    finish: Callable[[Any], Batch]
    encoded: bool

    def traced(self) -> Stages:
        """The same functions, each traced only once."""
        look, decode, finish = (tf.function(f, autograph=False) for f in self[:3])
        return Stages(look, decode, finish, self.encoded)


def train_stages(
    split: Split,
    config: DataConfig,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    skipped: SkippedImages | None,
    piece_size: int,
) -> Stages:
    """The functions of `input.train_dataset`, for elements of `piece_size` examples."""
    mixes = bool(config.mixup_alpha or config.cutmix_alpha)
    with tf.device("CPU:0"):
        labels = tf.constant(check_labels(split.labels, num_classes, split.title))
    reader = make_reader(split, config, piece_size, skipped)
    extra = load_augmentations(config.augment.extra, config.image_size)

    def look(first_position: tf.Tensor) -> Batch:
        positions = first_position + tf.range(piece_size, dtype=tf.int64)
        epoch, index = positions_to_examples(positions, split.num_examples, seed)
        return {"epoch": epoch, "index": index, **reader.look(index)}

    def decode(batch: Batch) -> Batch:
        images, readable = reader.decode(batch, train_boxes(batch, config, seed))
        kept = {name: batch[name] for name in ("epoch", "index")}
        return {"image": images, "readable": readable, **kept}

    def finish(batch: Batch) -> Batch:
        index = batch["index"]
        images = augment(batch["image"], config.augment, seed, batch["epoch"], index)
        images = apply_augmentations(images, extra, seed, batch["epoch"], index)
        images = reader.normalize(images, mean, std)
        if config.augment.erasing:
            images = erase_some(images, config.augment.erasing, seed, batch["epoch"], index)
        target = one_hot(tf.gather(labels, index), num_classes, config.label_smoothing)
        if mixes:
            images, target = mix(
                images, target, batch["readable"], config, seed, batch["epoch"], index
            )
        return {
            "image": images,
            "target": target,
            "weight": tf.cast(batch["readable"], tf.float32),
            "index": index,
        }

    return Stages(look, decode, finish, reader.encoded)


def eval_stages(
    split: Split,
    config: DataConfig,
    mean: Sequence[float],
    std: Sequence[float],
    skipped: SkippedImages | None,
    piece_size: int,
    may_change: bool,
) -> Stages:
    """The functions of `input.eval_dataset`, for elements of `piece_size` examples.

    Args:
      may_change: Whether the number of examples is unknown to graphs, see `Shard`.
    """
    num_examples = split.num_examples
    with tf.device("CPU:0"):
        labels = tf.constant(split.labels)
    reader = make_reader(split, config, piece_size, skipped)

    def look(first_position: tf.Tensor) -> Batch:
        positions = first_position + tf.range(piece_size, dtype=tf.int64)
        real = positions < num_examples
        index = tf.where(real, positions, tf.zeros_like(positions))
        return {"real": real, "index": index, **reader.look(index)}

    def decode(batch: Batch) -> Batch:
        images, readable = reader.decode(batch, None)
        return {"image": images, "readable": readable & batch["real"], "index": batch["index"]}

    def finish(batch: Batch) -> Batch:
        batch = {
            "image": reader.normalize(batch["image"], mean, std),
            "label": tf.gather(labels, batch["index"]),
            "weight": tf.cast(batch["readable"], tf.float32),
            "index": batch["index"],
        }
        if not may_change:
            return batch
        return {
            name: tf.raw_ops.PlaceholderWithDefault(input=value, shape=[None, *value.shape[1:]])
            for name, value in batch.items()
        }

    return Stages(look, decode, finish, reader.encoded)


def train_boxes(batch: Batch, config: DataConfig, seed: int) -> Boxes | None:
    """The function that draws the crop boxes of a batch; None for whole images."""
    min_area = config.augment.resized_crop_min_area
    if min_area is None:
        return None

    def boxes(sizes: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        epoch, index = (tf.gather(batch[name], places) for name in ("epoch", "index"))
        return random_box(sizes, min_area, seed, epoch, index)

    return boxes
