"""The tf.data pipeline: order, shard, read, decode, augment, prefetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.cores import available_cores
from pipeline.data.augment.augment import augment, erase_some
from pipeline.data.augment.custom import apply_augmentations, load_augmentations
from pipeline.data.augment.mix import GROUP
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.preprocess import normalize
from pipeline.data.reader import make_reader
from pipeline.data.shard import Shard
from pipeline.data.split import Split
from pipeline.data.stages import Stages, eval_stages, train_boxes, train_stages
from pipeline.errors import SettingsError

# Number of batches of files that are processed concurrently. All threads work on the files of one
# batch, so that memory does not grow with the number of cores.
_BATCHES_IN_FLIGHT = 2
# Number of finished batches that are kept ready for each replica: as many as fit into this memory,
# within these limits. They bridge the time in which the input stage is slower than the model.
_READ_AHEAD_BYTES = 128 * 2**20
_LEAST_AHEAD, _MOST_AHEAD = 2, 8
# Maximum number of batches that are augmented concurrently, each by one thread. All are in memory.
_MOST_BATCHES = 16

# Traced functions of datasets, by the number of examples in an element.
StagesBySize = dict[int, Stages]


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
    stages: StagesBySize | None = None,
) -> tf.data.Dataset:
    """Creates an infinite dataset with this process's part of every global batch.

    The content of an element depends only on its position in the order, not on the number of
    processes or threads, or on the step at which the run started.

    Args:
      split: The examples.
      config: Batch size, image size, augmentation.
      num_classes: C.
      mean: Mean of each channel, in units of 0..1.
      std: Standard deviation, likewise.
      seed: Determines order and augmentation.
      start_step: The step of the first element.
      shard: This process's part.
      skipped: Records files that were left out, with data.on_bad_image=skip.
      stages: Keeps the functions for later datasets, which may differ in `start_step` and `shard`.

    Returns:
      Element n is for replica n % splits of this process and step start_step + n // splits: image
      float32 [b, S, S, 3]; target float32 [b, C]; weight float32 [b], 0 for an image that was left
      out, else 1; index int64 [b]. b is the global batch over count * splits. With microbatches,
      the shapes begin with [shard.turns, m], where m is the size of a microbatch.

    Raises:
      SettingsError: The global batch cannot be divided, or the images have the wrong size.
      DataError: A label is out of range.
    """
    piece_size = shard.piece_size(config.global_batch_size)
    if config.mixup_alpha or config.cutmix_alpha:
        _check_pairs(piece_size, shard)
    make = partial(train_stages, split, config, num_classes, mean, std, seed, skipped, piece_size)
    first = start_step * shard.splits * shard.turns
    numbers = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
    positions = _positions(numbers, shard, config.global_batch_size)
    dataset = _assemble(positions, _traced(stages, piece_size, make), config)
    if shard.microbatches is not None:
        # All operations above have the shapes of a microbatch, and so give the same bits on any
        # number of workers.
        dataset = dataset.batch(shard.turns, drop_remainder=not shard.may_change)
    return _prefetched(dataset, config, shard, piece_size * shard.turns)


def eval_dataset(
    split: Split,
    config: DataConfig,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    shard: Shard,
    skipped: SkippedImages | None = None,
    block_size: int = 1,
    stages: StagesBySize | None = None,
) -> tf.data.Dataset:
    """Creates a dataset with this process's part of all examples, each once, in order.

    The last batch is padded, and the padding has weight 0. So every process has the same number of
    elements, and no process waits in a reduction that others never reach.

    Args:
      split: The examples.
      config: Batch size and image size.
      mean: Mean of each channel, in units of 0..1.
      std: Standard deviation, likewise.
      shard: This process's part, without microbatches.
      skipped: Records files that were left out, with data.on_bad_image=skip.
      block_size: Number of consecutive examples that must not be divided.
      stages: Keeps the functions for later datasets, which may differ in `shard`.

    Returns:
      image float32 [b, S, S, 3]; label int32 [b]; weight float32 [b], 0 for padding and for an
      image that was left out; index int64 [b]. b is the batch size over count * splits, rounded up
      to a multiple of `block_size`.

    Raises:
      SettingsError: The images have the wrong size.
    """
    piece_size = eval_piece_size(config, shard.replicas, block_size)
    batch_size, num_examples = piece_size * shard.pieces, split.num_examples
    make = partial(eval_stages, split, config, mean, std, skipped, piece_size, shard.may_change)
    numbers = tf.data.Dataset.range(-(-num_examples // batch_size) * shard.splits)
    positions = _positions(numbers, shard, batch_size)
    dataset = _assemble(positions, _traced(stages, piece_size, make), config)
    return _prefetched(dataset, config, shard, piece_size)


def eval_piece_size(config: DataConfig, replicas: int, block_size: int = 1) -> int:
    """Number of examples that a replica evaluates in a step, a multiple of `block_size`."""
    wanted = config.eval_batch_size or config.global_batch_size
    return -(-wanted // (replicas * block_size)) * block_size


def augmented_examples(
    split: Split, config: DataConfig, *, seed: int, epochs: int, indices: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """Returns some examples as augmented in the first epochs, without mixing, for display.

    Returns:
      uint8 [n, epochs, S, S, 3]; erased rectangles are medium gray.

    Raises:
      tf.errors.OpError: An image cannot be read; see `bad_images_named`.
    """
    size, count = config.image_size, len(indices) * epochs
    reader = make_reader(split, config, count, None)
    extra = load_augmentations(config.augment.extra, size)

    @tf.function(autograph=False)
    def make() -> tf.Tensor:
        index = tf.repeat(tf.constant(indices, tf.int64), epochs)
        epoch = tf.tile(tf.range(epochs, dtype=tf.int64), [len(indices)])
        batch = {"index": index, "epoch": epoch}
        images, _ = reader.decode(batch | reader.look(index), train_boxes(batch, config, seed))
        images = augment(images, config.augment, seed, epoch, index)
        images = apply_augmentations(images, extra, seed, epoch, index)
        images = normalize(images, (0.5,) * 3, (0.5,) * 3)
        if config.augment.erasing:
            images = erase_some(images, config.augment.erasing, seed, epoch, index)
        return tf.saturate_cast(tf.round((images + 1.0) * 127.5), tf.uint8)

    with tf.device("CPU:0"):
        pixels: npt.NDArray[np.uint8] = make().numpy()
    return pixels.reshape(len(indices), epochs, size, size, 3)


def _check_pairs(piece_size: int, shard: Shard) -> None:
    if piece_size % GROUP:
        step = shard.pieces * GROUP
        below = piece_size * shard.pieces // step * step
        fitting = " or ".join(str(n) for n in (below, below + step) if n)
        raise SettingsError(
            f"mixup and CutMix need pairs of examples, but the batch of a replica, {piece_size}, "
            f"is not a multiple of {GROUP}. Set data.global_batch_size to {fitting}"
        )


def _positions(numbers: tf.data.Dataset, shard: Shard, batch_size: int) -> tf.data.Dataset:
    def first_position(number: tf.Tensor) -> tf.Tensor:
        return shard.first_position(number, batch_size)

    return numbers.map(tf.autograph.experimental.do_not_convert(first_position))


def _traced(stages: StagesBySize | None, piece_size: int, make: Callable[[], Stages]) -> Stages:
    """The functions for pieces of this size, made by `make` unless `stages` has them."""
    if stages is None:
        return make()
    if piece_size not in stages:
        stages[piece_size] = make().traced()
    return stages[piece_size]


def _assemble(
    positions: tf.data.Dataset,
    stages: Stages,
    config: DataConfig,
) -> tf.data.Dataset:
    parallel = config.threads or min(available_cores(), _MOST_BATCHES)
    in_flight = min(_BATCHES_IN_FLIGHT, config.threads or _BATCHES_IN_FLIGHT)
    dataset = positions
    for stage, calls in (
        (stages.look, in_flight if stages.encoded else 1),
        (stages.decode, in_flight if stages.encoded else parallel),
        (stages.finish, parallel),
    ):
        # No Python branch here depends on a tensor, so AutoGraph is not needed. It would take most
        # of the time until the first batch (1.7 of 2.0 s).
        function = tf.autograph.experimental.do_not_convert(stage)
        dataset = dataset.map(function, num_parallel_calls=calls, deterministic=True)
    return dataset


def batches_ahead(batch_size: int, image_size: int, replicas: int) -> int:
    """Number of finished batches that a process keeps ready for each of its replicas.

    Args:
      batch_size: Images in a batch of a replica.
      image_size: Height and width, in pixels, of float32 images of three channels.
      replicas: Number of replicas in the process.
    """
    batch_bytes = batch_size * image_size**2 * 3 * 4
    fitting = _READ_AHEAD_BYTES // (batch_bytes * replicas)
    return min(max(fitting, _LEAST_AHEAD), _MOST_AHEAD)


def _prefetched(
    dataset: tf.data.Dataset, config: DataConfig, shard: Shard, batch_size: int
) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # The autotuning thread wakes up less and less often, in the end once a minute, and deleting an
    # iterator may have to wait for it: evaluations took 20.7 instead of 15.6 s. Nor is its tuning
    # useful: without it, throughput on two cores was 3 % higher, from memory and from files.
    options.autotune.enabled = False
    if config.threads is not None:
        options.threading.private_threadpool_size = config.threads
    ahead = batches_ahead(batch_size, config.image_size, shard.splits)
    return dataset.prefetch(ahead * shard.splits).with_options(options)
