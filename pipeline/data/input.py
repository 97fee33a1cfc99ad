"""The tf.data graph: order, shard, fetch, augment, batch, prefetch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.data.augment import augment, erase_some
from pipeline.data.files import SkippedImages, bad_image_error, load_image, read_batch
from pipeline.data.mix import GROUP, mix, one_hot
from pipeline.data.order import positions_to_examples
from pipeline.data.preprocess import normalize, resize
from pipeline.data.split import Split, check_labels
from pipeline.errors import SettingsError

__all__ = [
    "Shard", "SkippedImages", "bad_image_error", "eval_dataset", "load_image", "train_dataset",
]  # fmt: skip

# Batches of files read at a time: one being read while the next begins. Within a batch the files
# are read by all threads, so that memory does not grow with the number of cores.
_BATCHES_IN_FLIGHT = 2

Batch = dict[str, tf.Tensor]
# index int64 [b] -> images uint8 [b, S, S, 3], readable bool [b]
Fetch = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclass(frozen=True)
class Shard:
    """The index-th of count equal parts of the global batch, in `splits` consecutive pieces.

    Attributes:
      index: This process.
      count: All processes.
      splits: Replicas in this process; each element of a data set is the piece of one of them.
    """

    index: int = 0
    count: int = 1
    splits: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or self.splits < 1 or not 0 <= self.index < self.count:
            raise ValueError(f"0 <= index < count and splits >= 1 must hold. Received: {self}")

    @property
    def pieces(self) -> int:
        """Pieces of a global batch, over all processes."""
        return self.count * self.splits

    def piece_size(self, batch_size: int, setting: str = "data.global_batch_size") -> int:
        """Examples in a piece.

        Raises:
          SettingsError: The batch cannot be cut into equal pieces.
        """
        if batch_size % self.pieces:
            below = batch_size // self.pieces * self.pieces
            fitting = " or ".join(str(n) for n in (below, below + self.pieces) if n)
            raise SettingsError(
                f"{setting}={batch_size} cannot be divided equally over {self.pieces} replicas "
                f"({self.count} processes of {self.splits}). Set it to {fitting}"
            )
        return batch_size // self.pieces


def train_dataset(
    split: Split,
    config: DataConfig,
    *,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    start_step: int,
    shard: Shard,
    skipped: SkippedImages | None = None,
) -> tf.data.Dataset:
    """This process's part of every global batch, without an end.

    What an element holds depends on its place in the order only: not on the number of processes,
    of threads, or on where the run began.

    Args:
      split: The examples.
      config: Batch, size, augmentation.
      num_classes: C.
      mean: Of each colour, in units of 0..1.
      std: Likewise.
      seed: Decides order and augmentation.
      start_step: The step of the first element.
      shard: This process's part.
      skipped: Is told which files were left out, with data.on_bad_image=skip.

    Returns:
      Element n is piece n % splits of step start_step + n // splits, with b the global batch
      over count * splits: image float32 [b, S, S, 3]; target float32 [b, C]; weight float32 [b],
      0 for an image that was left out, else 1; index int64 [b].

    Raises:
      SettingsError: The global batch cannot be divided, or the images have the wrong size.
      DataError: A label is out of range.
    """
    batch_size = config.global_batch_size
    piece_size = shard.piece_size(batch_size)
    mixes = bool(config.mixup_alpha or config.cutmix_alpha)
    if mixes:
        _check_pairs(piece_size, shard)
    with tf.device("CPU:0"):
        labels = tf.constant(check_labels(split.labels, num_classes, split.title))
        fetch = _make_fetch(split, config, piece_size, skipped)

    def read(number: tf.Tensor) -> Batch:
        positions = _positions(number, batch_size, piece_size, shard)
        epoch, index = positions_to_examples(positions, split.num_examples, seed)
        images, readable = fetch(index)
        return {"image": images, "readable": readable, "epoch": epoch, "index": index}

    def finish(batch: Batch) -> Batch:
        index = batch["index"]
        images = augment(batch["image"], config.augment, seed, batch["epoch"], index)
        images = normalize(images, mean, std)
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

    numbers = tf.data.Dataset.range(start_step * shard.splits, np.iinfo(np.int64).max)
    return _assemble(numbers, read, finish, split, config)


def eval_dataset(
    split: Split,
    config: DataConfig,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    shard: Shard,
    skipped: SkippedImages | None = None,
) -> tf.data.Dataset:
    """This process's part of all examples, each once, in order.

    The last batch is padded, and the padding has weight 0; so every process sees the same number
    of elements, and none waits for the others in a reduction they never reach.

    Args:
      split: The examples.
      config: Batch and size.
      mean: Of each colour, in units of 0..1.
      std: Likewise.
      shard: This process's part.
      skipped: Is told which files were left out, with data.on_bad_image=skip.

    Returns:
      image float32 [b, S, S, 3]; label int32 [b]; weight float32 [b], 0 for padding and for an
      image that was left out; index int64 [b]. b is the batch, rounded up to a multiple of
      count * splits, over that number.

    Raises:
      SettingsError: The images have the wrong size.
    """
    wanted = config.eval_batch_size or config.global_batch_size
    piece_size = -(-wanted // shard.pieces)
    batch_size = piece_size * shard.pieces
    num_examples = split.num_examples
    with tf.device("CPU:0"):
        labels = tf.constant(split.labels)
        fetch = _make_fetch(split, config, piece_size, skipped)

    def read(number: tf.Tensor) -> Batch:
        positions = _positions(number, batch_size, piece_size, shard)
        real = positions < num_examples
        index = tf.where(real, positions, tf.zeros_like(positions))
        images, readable = fetch(index)
        return {"image": images, "readable": readable & real, "index": index}

    def finish(batch: Batch) -> Batch:
        return {
            "image": normalize(batch["image"], mean, std),
            "label": tf.gather(labels, batch["index"]),
            "weight": tf.cast(batch["readable"], tf.float32),
            "index": batch["index"],
        }

    numbers = tf.data.Dataset.range(-(-num_examples // batch_size) * shard.splits)
    return _assemble(numbers, read, finish, split, config)


def _check_pairs(piece_size: int, shard: Shard) -> None:
    if piece_size % GROUP:
        step = shard.pieces * GROUP
        below = piece_size * shard.pieces // step * step
        fitting = " or ".join(str(n) for n in (below, below + step) if n)
        raise SettingsError(
            f"mixup and CutMix mix the two examples of a pair, and {piece_size} a replica is no "
            f"multiple of {GROUP}. Set data.global_batch_size to {fitting}"
        )


def _positions(number: tf.Tensor, batch_size: int, piece_size: int, shard: Shard) -> tf.Tensor:
    """The positions in the global order that element `number` holds, int64 [b]."""
    step, piece = number // shard.splits, number % shard.splits
    start = step * batch_size + (shard.index * shard.splits + piece) * piece_size
    return start + tf.range(piece_size, dtype=tf.int64)


def _assemble(
    numbers: tf.data.Dataset,
    read: Callable[[tf.Tensor], Batch],
    finish: Callable[[Batch], Batch],
    split: Split,
    config: DataConfig,
) -> tf.data.Dataset:
    parallel = config.threads or tf.data.AUTOTUNE
    in_flight = parallel
    if split.paths is not None:
        in_flight = min(_BATCHES_IN_FLIGHT, config.threads or _BATCHES_IN_FLIGHT)
    dataset = numbers.map(read, num_parallel_calls=in_flight, deterministic=True)
    dataset = dataset.map(finish, num_parallel_calls=parallel, deterministic=True)
    options = tf.data.Options()
    options.deterministic = True
    if config.threads is not None:
        options.threading.private_threadpool_size = config.threads
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _make_fetch(
    split: Split, config: DataConfig, piece_size: int, skipped: SkippedImages | None
) -> Fetch:
    if split.images is None:
        # Bytes, as the file system has them: a name need not be valid text.
        paths = tf.constant([os.fsencode(path) for path in split.paths or ()])
        found = SkippedImages() if skipped is None else skipped
        parallel = config.threads or os.cpu_count() or 1
        return lambda index: read_batch(
            tf.gather(paths, index), piece_size, config, parallel, found
        )
    height, width = split.images.shape[1:3]
    size = config.image_size
    if config.resize == "none" and (height, width) != (size, size):
        raise SettingsError(
            f"{split.title} has images of {width} x {height} pixels, but data.resize=none and "
            f"data.image_size={size}. Set data.resize=squash, or the size the images have"
        )
    # An eager tensor that the graph captures; as a constant of the graph it would be copied into
    # it, and a graph holds 2 GiB at most.
    images = tf.constant(split.images)

    def fetch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch = resize(tf.gather(images, index), size, config.resize)
        return batch, tf.ones_like(index, tf.bool)

    return fetch
