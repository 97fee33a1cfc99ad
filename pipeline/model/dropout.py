"""Dropout and stochastic depth as pure functions of a seed.

The seed is an integer tensor [2] that differs at every step. Each place in the model combines it
with a hash of its own name, so that all places draw independently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from pipeline.model.backend import Tensor, fused, random_uint16, seed_dtype
from pipeline.model.initial import hash_path

_STEPS = 65_536  # number of values of a 16-bit draw


def dropout(
    x: Tensor, rate: float, seed: Tensor | None, place: str, *, whole_examples: bool = False
) -> Tensor:
    """Zeroes entries with probability `rate` and scales the others by 1 / (1 - rate).

    Args:
      x: Floats [B, ...].
      rate: In [0, 1), rounded to a multiple of 1/65536.
      seed: Integers [2], or None to return x unchanged.
      place: Name of the place in the model. Each place draws its own mask.
      whole_examples: Whether to keep or drop whole examples, as stochastic depth does.
    """
    if seed is None or rate == 0:
        return x
    scale = ops.full((), keep_scale(rate), x.dtype)
    if whole_examples:
        kept = keep_mask((ops.shape(x)[0], *[1] * (len(x.shape) - 1)), rate, seed, place)
        return x * ops.where(kept, scale, ops.zeros((), x.dtype))
    return _apply_mask(x, keep_mask(ops.shape(x), rate, seed, place), scale)


@ops.custom_gradient
def _apply_mask(x: Tensor, kept: Tensor, scale: Tensor) -> tuple[Tensor, Callable[..., Any]]:
    return _kept(x, kept, scale), lambda upstream: (_kept(upstream, kept, scale), None, None)


@fused
def _kept(x: Tensor, kept: Tensor, scale: Tensor) -> Tensor:
    return ops.where(kept, x * scale, ops.zeros((), x.dtype))


def keep_mask(shape: Any, rate: float, seed: Tensor, place: str) -> Tensor:
    """Draws a bool mask that is False with probability `rate`. The shape may hold tensors."""
    threshold = ops.convert_to_tensor(_zeros(rate), dtype="uint16")
    return random_uint16(shape, fold_in(seed, place)) >= threshold


def keep_scale(rate: float) -> float:
    """The factor 1 / (1 - rate) that preserves the mean, for the rate rounded as in the masks."""
    return 1 / (1 - _zeros(rate) / _STEPS)


def fold_in(seed: Tensor, place: str) -> Tensor:
    """Derives the seed [2] of one place in the model, independent of all others.

    Both words are changed, by 62 bits hashed from `place`. If only one word changed, two places
    could get the same seed at different steps, because seeds count steps.
    """
    words = ops.convert_to_tensor(np.array(hash_path(place)), dtype=seed_dtype())
    return ops.bitwise_xor(ops.cast(seed, seed_dtype()), words)


def _zeros(rate: float) -> int:
    return min(round(rate * _STEPS), _STEPS - 1)
