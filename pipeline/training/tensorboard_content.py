"""Content for TensorBoard besides curves: settings, batches, position embeddings, attention."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Config, all_settings, dump_config, value_of
from pipeline.data.images import bad_images_named
from pipeline.data.input import eval_dataset, train_dataset
from pipeline.data.shard import Shard
from pipeline.model.attention_maps import last_block_attention
from pipeline.strict_json import to_json
from pipeline.training.experiment import Experiment

# Each function that draws imports `training_figures` itself: a process that draws nothing, such as
# every rank but the chief, then starts without the half second that matplotlib takes.

_BATCH = 32  # images of the first batch to show
_ATTENTION_IMAGES = 6  # validation images whose attention is shown


def start_texts(config: Config, start: dict[str, Any] | None) -> dict[str, str]:
    """Texts by title: the settings, and how the run was started.

    The texts are indented, so that Markdown shows them as code.

    Args:
      config: The settings.
      start: The result of `description.start_facts`; None if it is unknown.
    """
    texts = {"settings": dump_config(config)}
    if start is not None:
        versions = "\n".join(f"{name} {number}" for name, number in start["versions"].items())
        where = f"{start['host']}, {start['system']}\n{start['devices']}"
        texts["command and environment"] = f"{shlex.join(start['command'])}\n\n{versions}\n{where}"
    return {title: "    " + text.replace("\n", "\n    ") for title, text in texts.items()}


def comparable_settings(experiment: Experiment) -> dict[str, float | str | bool]:
    """All settings by key, in the form that TensorBoard's HParams page accepts."""
    values = {s.key: value_of(experiment.config, s.key) for s in all_settings()}
    plain = (bool, int, float, str)
    return {k: v if isinstance(v, plain) else to_json(v) for k, v in values.items()}


def initial_pictures(experiment: Experiment) -> Iterator[tuple[str, bytes]]:
    """Yields title and PNG of the first augmented training batch, and of an image in patches."""
    from pipeline.monitor import training_figures

    with bad_images_named():
        images, targets = _first_batch(experiment)
    yield "first batch", training_figures.draw_batch(images, targets, experiment.source.classes)
    if experiment.model.arch is not None:
        patch_size = experiment.model.arch.patch_size
        yield "patches", training_figures.draw_image_in_patches(images[0], patch_size)


def final_pictures(experiment: Experiment) -> Iterator[tuple[str, bytes]]:
    """Yields title and PNG of the position embeddings, and of attention on validation images."""
    from pipeline.monitor import training_figures

    model = experiment.model
    if model.arch is None:
        return
    side = experiment.config.data.image_size // model.arch.patch_size
    positions = keras.ops.convert_to_numpy(model.position_embedding.positions)
    drawn = training_figures.draw_positions(positions[-(side**2) :], (side, side))
    yield "positions", drawn
    if "validation" in experiment.source.splits:
        with bad_images_named():
            attention = _attention(experiment, side)
        yield "attention", attention


def _first_batch(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, S, S, 3] and targets float32 [n, C] of the chief's first replica."""
    config = experiment.config
    batch = next(iter(train_dataset(
        experiment.source.splits["train"], config.data,
        num_classes=len(experiment.source.classes), mean=experiment.mean, std=experiment.std,
        seed=config.seed, start_step=0,
        shard=Shard(0, experiment.runtime.num_replicas, 1, config.microbatches),
    )))  # fmt: skip
    images, targets = batch["image"], batch["target"]
    if config.microbatches is not None:
        images, targets = (tf.concat(tf.unstack(value), axis=0) for value in (images, targets))
    return _pixels(experiment, images[:_BATCH]), targets[:_BATCH].numpy()


def _attention(experiment: Experiment, side: int) -> bytes:
    from pipeline.monitor import training_figures

    data = experiment.config.data.model_copy(update={"eval_batch_size": _ATTENTION_IMAGES})
    split = experiment.source.splits["validation"]
    batch = next(iter(eval_dataset(
        split, data, mean=experiment.mean, std=experiment.std, shard=Shard()
    )))  # fmt: skip
    real = batch["weight"].numpy() > 0
    shares = last_block_attention(experiment.model, batch["image"]).numpy()[real].mean(axis=1)
    # The attention of the class token, or the mean over all tokens if there is no class token.
    has_token = experiment.model.class_token is not None
    seen = shares[:, 0, 1:] if has_token else shares.mean(axis=1)  # [n, T, T] -> [n, N]
    names = [experiment.source.classes[i] for i in batch["label"].numpy()[real]]
    images = _pixels(experiment, batch["image"])[real]
    return training_figures.draw_attention(images, seen.reshape(-1, side, side), names)


def _pixels(experiment: Experiment, images: tf.Tensor) -> np.ndarray:
    """Converts normalized images back to uint8."""
    std, mean = np.array(experiment.std), np.array(experiment.mean)
    values = (images.numpy() * std + mean) * 255
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
