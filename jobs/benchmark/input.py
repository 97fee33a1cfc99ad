"""`vit benchmark input RECIPE`"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from jobs.cli import find_recipe
from jobs.tensorflow_start import import_tensorflow
from pipeline.config import AugmentConfig, Config, DataConfig, load_config

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.data.sources.source import DataSource

_EPILOG = """\
Each line is a tf.data pipeline that hands out batches as training takes them, without a model. All
are timed in turn, --rounds times, and the figures are medians. Stages add up from line to line.
Where the images are in memory, Keras's layers in tf.data, and crop and flip by NumPy, stand beside
them. The same work as ours, draws for each image, is "image by image"; on a batch, Keras crops all
images in one place and puts them through the same operations of RandAugment.
"""

# Makes the batches of one line of the table.
Batches = Callable[[], "tf.data.Dataset"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("recipe", nargs="?", default="cifar10", help="default: cifar10")
    parser.add_argument("settings", nargs="*", metavar="section.key=value")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timing (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each line (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Times the recipe's input stage, stage by stage, and what others do."""
    config = load_config(find_recipe(arguments.recipe), arguments.settings)
    import_tensorflow()
    from pipeline.data.sources.source import open_source

    source = open_source(config.data, config.seed)
    lines = _ours(config, source) | _others(config.data, source)
    iterators = {name: iter(make()) for name, make in lines.items()}
    rates: dict[str, list[float]] = {name: [] for name in lines}
    for number in range(arguments.rounds + 1):
        for name, iterator in iterators.items():
            rate = _rate(iterator, arguments.seconds if number else 1.0)
            if number:  # the first fills caches and buffers
                rates[name].append(rate)
    medians = {name: median(found) for name, found in rates.items()}
    print(json.dumps(medians) if arguments.json else "\n".join(_table(config, medians)))
    return 0


def _ours(config: Config, source: DataSource) -> dict[str, Batches]:
    from pipeline.data.input import Shard, train_dataset

    def make(data: DataConfig) -> Batches:
        return lambda: train_dataset(
            source.splits["train"],
            data,
            num_classes=len(source.classes),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            seed=config.seed,
            start_step=0,
            shard=Shard(),
        )

    plain = config.data.model_copy(
        update={"augment": AugmentConfig(), "mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    )
    unmixed = config.data.model_copy(update={"mixup_alpha": 0.0, "cutmix_alpha": 0.0})
    lines = {"order, fetch, decode, normalise": make(plain)}
    if config.data.augment != AugmentConfig():
        lines["and augment"] = make(unmixed)
    if config.data.mixup_alpha or config.data.cutmix_alpha:
        lines["and mix"] = make(config.data)
    return lines


def _others(data: DataConfig, source: DataSource) -> dict[str, Batches]:
    images = source.splits["train"].images
    if images is None or data.resize != "none":
        return {}
    # On a batch, Keras draws one crop and one list of operations for all of its images: that is
    # less work than ours, and faster. Image by image it is the same work.
    lines = {}
    for title, with_rand_augment in (("crop, flip", False), ("and RandAugment", True)):
        if with_rand_augment and not data.augment.rand_augment_layers:
            continue
        for how, by_image in (("image by image", True), ("one draw a batch", False)):
            lines[f"Keras, {how}: {title}"] = _keras(data, images, with_rand_augment, by_image)
    lines["NumPy: crop, flip"] = _numpy(data, images)
    return lines


def _keras(data: DataConfig, images: Any, with_rand_augment: bool, by_image: bool) -> Batches:
    import keras
    import tensorflow as tf

    size, augment = data.image_size, data.augment
    layers: list[Any] = [
        keras.layers.ZeroPadding2D(augment.crop_padding),
        keras.layers.RandomCrop(size, size),
        keras.layers.RandomFlip("horizontal"),
    ]
    if with_rand_augment:
        layers.append(
            keras.layers.RandAugment(
                num_ops=augment.rand_augment_layers, factor=augment.rand_augment_magnitude / 10
            )
        )
    layers.append(keras.layers.Rescaling(1 / 127.5, -1.0))

    def change(batch: tf.Tensor) -> tf.Tensor:
        values = tf.cast(batch, tf.float32)
        for layer in layers:
            values = layer(values, training=True)
        return values

    def make() -> tf.data.Dataset:
        dataset = tf.data.Dataset.from_tensor_slices(images).shuffle(10_000).repeat()
        if by_image:
            dataset = dataset.map(lambda image: change(image[tf.newaxis])[0], tf.data.AUTOTUNE)
        dataset = dataset.batch(data.global_batch_size, drop_remainder=True)
        if not by_image:
            dataset = dataset.map(change, tf.data.AUTOTUNE)
        return dataset.prefetch(tf.data.AUTOTUNE)

    return make


def _numpy(data: DataConfig, images: Any) -> Batches:
    import numpy as np
    import tensorflow as tf

    size, padding = data.image_size, data.augment.crop_padding

    def batches() -> Iterator[Any]:
        rng = np.random.default_rng(0)
        while True:
            batch = np.empty((data.global_batch_size, size, size, 3), np.float32)
            for place, index in enumerate(rng.integers(len(images), size=len(batch))):
                padded = np.pad(images[index], ((padding,) * 2, (padding,) * 2, (0, 0)))
                top, left = rng.integers(2 * padding + 1, size=2)
                image = padded[top : top + size, left : left + size]
                batch[place] = image[:, :: rng.choice((-1, 1))]
            yield batch / 127.5 - 1.0

    spec = tf.TensorSpec([data.global_batch_size, size, size, 3], tf.float32)
    return lambda: tf.data.Dataset.from_generator(batches, output_signature=spec).prefetch(2)


def _rate(iterator: Iterator[Any], seconds: float) -> float:
    """Images a second."""
    images, start_s = 0, time.perf_counter()
    while (passed_s := time.perf_counter() - start_s) < seconds:
        batch = next(iterator)
        images += len(batch["image"] if isinstance(batch, dict) else batch)
    return images / passed_s


def _table(config: Config, rates: Mapping[str, float]) -> Iterator[str]:
    data = config.data
    yield f"{data.source}, {data.image_size} px, batches of {data.global_batch_size}"
    yield f"{'':<40}{'images/s':>10}{'us an image':>13}"
    for name, rate in rates.items():
        yield f"{name:<40}{rate:>10,.0f}{1e6 / rate:>13.1f}"
