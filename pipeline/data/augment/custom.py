"""`data.augment.extra`: users' augmentations, loaded, checked and applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from pipeline.data.order import uniforms
from pipeline.errors import SettingsError
from pipeline.plugins import call_plugin, check_random, load_plugin

Random = Callable[[int], tf.Tensor]

# augment.py counts its draws from 0, and mix.py from 1000.
_FIRST_DRAW = 2000
# Draws that each augmentation may use; the next one starts after them.
MOST_DRAWS = 1000
_EXAMPLES = 3
# Largest difference in 0..255 between an image augmented in a batch and alone: rounding.
_TOLERANCE = 1e-2


class Augmentation(Protocol):
    """An augmentation of TensorFlow operations, applied to whole batches.

    The result for an image must depend on nothing but the image and its own random numbers.
    """

    def __call__(self, images: tf.Tensor, random: Random) -> tf.Tensor:
        """Changes images.

        Args:
          images: float32 [B, S, S, 3] in 0..255, after the other augmentations and before
            normalization.
          random: random(n) returns n random numbers for each image, float32 [n, B] in [0, 1). They
            depend on (seed, epoch, example) only. Every call returns the same numbers, so call it
            once. n is at most 1000.

        Returns:
          float32 [B, S, S, 3], the same shape, in 0..255.
        """


def load_augmentations(names: Sequence[str], image_size: int) -> list[Augmentation]:
    """Loads and checks the functions that `data.augment.extra` names.

    Raises:
      SettingsError: One cannot be loaded, or is not as `Augmentation` says.
    """
    functions = []
    for name in names:
        function: Augmentation = load_plugin("data.augment.extra", name)
        with tf.device("CPU:0"):
            _check(f"data.augment.extra: {name!r}", function, image_size)
        functions.append(function)
    return functions


def apply_augmentations(
    images: tf.Tensor,
    functions: Sequence[Augmentation],
    seed: int,
    epoch: tf.Tensor,
    index: tf.Tensor,
) -> tf.Tensor:
    """Applies functions one after the other.

    Args:
      images: uint8 or float32 [B, S, S, 3] in 0..255.
      functions: From `load_augmentations`.
      seed: The seed of the run.
      epoch: int64 [B].
      index: int64 [B], the example in its data set.

    Returns:
      float32 [B, S, S, 3]; as `images` if there are no functions.
    """
    for number, function in enumerate(functions):
        random = _random(seed, epoch, index, _FIRST_DRAW + number * MOST_DRAWS)
        shape = images.shape
        images = tf.ensure_shape(function(tf.cast(images, tf.float32), random), shape)
    return images


def _random(seed: int, epoch: tf.Tensor, index: tf.Tensor, first_draw: int = 0) -> Random:
    def random(count: int) -> tf.Tensor:
        if not 0 < count <= MOST_DRAWS:
            raise ValueError(f"random(n): n must be in 1..{MOST_DRAWS}. Received: {count}")
        return uniforms(seed, epoch, index, range(first_draw, first_draw + count))

    return random


def _check(what: str, function: Augmentation, size: int) -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.uniform(0, 255, [_EXAMPLES, size, size, 3]).astype(np.float32)
    graph = _trace(what, function, size)
    check_random(what, graph, "Use random(n)")

    def augment(places: Sequence[int]) -> Any:
        numbers = tf.constant(places, tf.int64)
        return function(tf.constant(images[places]), _random(0, numbers, numbers))

    together = call_plugin(SettingsError, f"{what} failed", augment, list(range(_EXAMPLES)))
    received = (
        f"{together.dtype.name} {list(together.shape)}"
        if tf.is_tensor(together)
        else type(together).__name__
    )
    expected = f"float32 {list(images.shape)}"
    if received != expected:
        raise SettingsError(f"{what} must return {expected}, like its images. Received: {received}")
    alone = np.concatenate([augment([place]).numpy() for place in range(_EXAMPLES)])
    if not np.allclose(alone, together.numpy(), rtol=0, atol=_TOLERANCE):
        raise SettingsError(
            f"{what}: the result for an image depends on the other images of its batch, or on a "
            "hidden state. It would differ with the number of processes. Use the image and "
            "random(n) only"
        )


def _trace(what: str, function: Augmentation, size: int) -> Any:
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, size, size, 3], tf.float32),
            tf.TensorSpec([None], tf.int64),
        ],
        autograph=False,
    )
    def traced(images: tf.Tensor, index: tf.Tensor) -> Any:
        return function(images, _random(0, index, index))

    return call_plugin(SettingsError, f"{what} failed", traced.get_concrete_function).graph
