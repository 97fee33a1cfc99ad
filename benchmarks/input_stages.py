"""Our input stage, with one more stage per line."""

from __future__ import annotations

import tensorflow as tf

from benchmarks.line import Line
from pipeline.config import AugmentConfig, Config, DataConfig
from pipeline.cores import available_cores
from pipeline.data.images import read_contents
from pipeline.data.input import train_dataset
from pipeline.data.order import positions_to_examples
from pipeline.data.shard import Shard
from pipeline.data.sources.source import DataSource
from pipeline.data.split import Split

FETCH = "order, fetch"
DECODE = "order, fetch, decode, resize, normalize"
AUGMENT = "and augment"
MIX = "and mix"
COARSE = "all of it without antialiasing"


def stages(config: Config, source: DataSource) -> list[Line]:
    """Returns lines from the order of examples up to mixed batches, as far as the recipe goes."""
    data, split = config.data, source.splits["train"]
    crop_only = AugmentConfig(resized_crop_min_area=data.augment.resized_crop_min_area)
    unmixed = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}

    def line(title: str, settings: DataConfig) -> Line:
        def make() -> tf.data.Dataset:
            return train_dataset(
                split,
                settings,
                num_classes=len(source.classes),
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
                seed=config.seed,
                start_step=0,
                shard=Shard(),
            )

        return Line(title, make, data.global_batch_size)

    lines = []
    if split.images is None:
        lines.append(Line(FETCH, lambda: _fetch(split, config), data.global_batch_size))
    lines.append(line(DECODE, data.model_copy(update={"augment": crop_only, **unmixed})))
    if data.augment != crop_only:
        lines.append(line(AUGMENT, data.model_copy(update=unmixed)))
    if data.mixup_alpha or data.cutmix_alpha:
        lines.append(line(MIX, data))
    if split.images is None and data.antialias and data.resize != "none":
        lines.append(line(COARSE, data.model_copy(update={"antialias": False})))
    return lines


def _fetch(split: Split, config: Config) -> tf.data.Dataset:
    size, parallel = config.data.global_batch_size, available_cores()

    def fetch(step: tf.Tensor) -> tf.Tensor:
        positions = step * size + tf.range(size, dtype=tf.int64)
        _, index = positions_to_examples(positions, split.num_examples, config.seed)
        return read_contents(split, index, size, parallel)[0]

    return tf.data.Dataset.range(2**62).map(fetch, num_parallel_calls=2).prefetch(2)
