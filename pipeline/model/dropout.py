"""What is dropped at random.

Randomness is an argument: an integer tensor [2], the step's dropout seed. Every place in the
model folds in a constant of its own, so places draw independently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from pipeline.model.backend import Tensor, fused, random_words, seed_dtype
from pipeline.model.initial import path_words

_STEPS = 65_536  # what a draw of 16 bits can be


def dropout(
    x: Tensor, rate: float, seed: Tensor | None, place: str, *, whole_examples: bool = False
) -> Tensor:
    """Zeroes entries with probability `rate` and scales the others by 1 / (1 - rate).

    Args:
      x: Floats [B, ...].
      rate: In [0, 1), rounded to 1/65536.
      seed: Integers [2], or None for x unchanged.
      place: Name of the place in the model; every place draws its own mask.
      whole_examples: One draw an example, for all its entries (stochastic depth).
    """
    if seed is None or rate == 0:
        return x
    scale = ops.full((), scale_of_kept(rate), x.dtype)
    if whole_examples:
        kept = kept_places((ops.shape(x)[0], *[1] * (len(x.shape) - 1)), rate, seed, place)
        return x * ops.where(kept, scale, ops.zeros((), x.dtype))
    return _scale_kept(x, kept_places(ops.shape(x), rate, seed, place), scale)


@ops.custom_gradient
def _scale_kept(x: Tensor, kept: Tensor, scale: Tensor) -> tuple[Tensor, Callable[..., Any]]:
    return _kept(x, kept, scale), lambda upstream: (_kept(upstream, kept, scale), None, None)


@fused
def _kept(x: Tensor, kept: Tensor, scale: Tensor) -> Tensor:
    return ops.where(kept, x * scale, ops.zeros((), x.dtype))


def kept_places(shape: Any, rate: float, seed: Tensor, place: str) -> Tensor:
    """False with probability `rate`: bool of a shape, of numbers or scalar tensors."""
    threshold = ops.convert_to_tensor(_zeros(rate), dtype="uint16")
    return random_words(shape, fold_in(seed, place)) >= threshold


def scale_of_kept(rate: float) -> float:
    """What keeps the mean: 1 / (1 - rate), for the rate that the masks have."""
    return 1 / (1 - _zeros(rate) / _STEPS)


def fold_in(seed: Tensor, place: str) -> Tensor:
    """The seed [2] of a place in the model, independent of every other place's.

    Both words change, by 62 bits hashed from `place`: had only one word changed, seeds that count
    steps could meet at two places.
    """
    words = ops.convert_to_tensor(np.array(path_words(place)), dtype=seed_dtype())
    return ops.bitwise_xor(ops.cast(seed, seed_dtype()), words)


def _zeros(rate: float) -> int:
    return min(round(rate * _STEPS), _STEPS - 1)
