"""Checks of `train.deterministic`: what could make the bits of a run differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Config
from pipeline.errors import SettingsError
from pipeline.training.gradients import dropout_seed, make_gradients_of_part

# Packages whose versions determine the kernels.
_PACKAGES = ("tensorflow", "keras", "numpy", "vit-pipeline")


def check_repeatable(config: Config, model: keras.Model) -> None:
    """Computes the gradients of a microbatch twice and compares them.

    Use it for a model of `model.builder`. It finds layers with random numbers of their own, which
    differ from call to call.

    Raises:
      SettingsError: The gradients differ.
    """
    size, images = config.microbatch_size or 1, config.data.image_size
    generator = np.random.Generator(np.random.PCG64(0))
    batch = {
        "image": tf.constant(generator.normal(size=[size, images, images, 3]), tf.float32),
        "target": tf.one_hot(np.arange(size) % model.num_classes, model.num_classes),
        "weight": tf.ones([size]),
    }
    gradients_of = make_gradients_of_part(config, model, None, xla=config.train.xla == "always")
    function = tf.function(gradients_of, autograph=False)
    seed = dropout_seed(config, tf.constant(0, tf.int64), tf.constant(0))
    (sums, gradients), (again, others) = (function(batch, seed) for _ in range(2))
    same = np.array_equal(sums, again) and all(map(np.array_equal, gradients, others))
    if not same:
        raise SettingsError(
            f"model.builder: {config.model.builder!r} with train.deterministic=true: two "
            "computations of one microbatch with the same dropout_seed gave different gradients. "
            "Draw all random numbers of the model from dropout_seed"
        )


def bit_warnings(
    processors: Sequence[str], versions: Mapping[str, str], starts: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Warnings about processors and versions for which the bits of a run may differ.

    Args:
      processors: The type of processor of each process.
      versions: Versions of packages by name.
      starts: The earlier starts of the run, oldest first, from starts.jsonl.
    """
    found = []
    kinds = sorted(set(processors))
    if len(kinds) > 1:
        found.append(
            f"the processes have different processors ({'; '.join(kinds)}). The weights are not "
            "bit-identical to those of a run with processors of one type"
        )
    last = starts[-1] if starts else {}
    before = last.get("processors", kinds)
    if before != kinds:
        found.append(
            f"the run was trained on {'; '.join(map(str, before))} and resumes on "
            f"{'; '.join(kinds)}. The weights may not be bit-identical to those of an "
            "uninterrupted run"
        )
    old = last.get("versions", {})
    changed = [
        f"{name} {old[name]} is now {versions[name]}"
        for name in _PACKAGES
        if name in old and name in versions and old[name] != versions[name]
    ]
    if changed:
        found.append(
            f"{', '.join(changed)}. The weights may not be bit-identical to those of a run with "
            "one version"
        )
    return [f"warning: train.deterministic: {text}" for text in found]
