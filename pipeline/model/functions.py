"""What the parts of a Vision Transformer compute, as pure functions of tensors.

Letters in shapes: B images, H x W pixels in h x w patches of P x P, N = h w patches, T tokens
(N, or N + 1 with a class token), D width, n heads of size d, M hidden units of the MLP.

Randomness is an argument: an integer tensor [2], the step's dropout seed. Every place in the
model folds in a constant of its own, so places draw independently.

References: Dosovitskiy et al. 2021, arXiv 2010.11929; Vaswani et al. 2017, arXiv 1706.03762.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from pipeline.model.initial import path_words

Tensor = Any  # a tensor of whichever backend Keras runs on


def image_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """Cuts images [B, H, W, C] into patches [B, N, P*P*C], row by row.

    Inside a patch the order is row, column, channel: a convolution's kernel [P, P, C, D] reshaped
    to [P*P*C, D] is the matching matrix.

    Raises:
      ValueError: Height or width is not a multiple of `patch_size`.
    """
    _, height, width, channels = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"Images must have sides that are multiples of patch_size={patch_size}. "
            f"Received: {height} x {width} pixels"
        )
    rows, columns = height // patch_size, width // patch_size
    grid = ops.reshape(images, (-1, rows, patch_size, columns, patch_size, channels))
    grid = ops.transpose(grid, (0, 1, 3, 2, 4, 5))  # [B, h, P, w, P, C] -> [B, h, w, P, P, C]
    length = patch_size * patch_size * channels
    return ops.reshape(grid, (-1, rows * columns, length))  # -> [B, h w, P*P*C]


def linear(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """x [..., I] times kernel [I, O] plus bias [O], as one product of two matrices.

    On the CPU this is faster than a batched product with a shared kernel; and `ops.add`, unlike
    `+`, becomes TensorFlow's BiasAdd, whose gradient is a reduction made for it.
    """
    flat = ops.reshape(x, (-1, x.shape[-1]))  # [..., I] -> [R, I]
    flat = ops.add(ops.matmul(flat, kernel), bias)  # [R, I] -> [R, O]
    return ops.reshape(flat, (-1, *x.shape[1:-1], kernel.shape[-1]))  # [R, O] -> [..., O]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, T, n d] -> [B, n, T, d]"""
    _, tokens, length = x.shape
    x = ops.reshape(x, (-1, tokens, num_heads, length // num_heads))
    return ops.transpose(x, (0, 2, 1, 3))


def merge_heads(x: Tensor) -> Tensor:
    """[B, n, T, d] -> [B, T, n d]"""
    _, num_heads, tokens, size = x.shape
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, tokens, num_heads * size))


def attention_probabilities(query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) for query and key [B, n, T, d]: [B, n, T, T], rows sum to one.

    The softmax is computed in float32 also in mixed precision: the sum over T in bfloat16 would
    lose what small probabilities add.
    """
    scaled = query * query.shape[-1] ** -0.5  # T d numbers to scale, where the scores are T T
    scores = ops.matmul(scaled, ops.swapaxes(key, -1, -2))  # [B, n, T, d] -> [B, n, T, T]
    return ops.cast(ops.softmax(ops.cast(scores, "float32"), axis=-1), query.dtype)


def gelu(x: Tensor, form: Literal["exact", "tanh"]) -> Tensor:
    """x times the normal distribution function at x, or its tanh form (arXiv 1606.08415)."""
    return ops.gelu(x, approximate=form == "tanh")


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed positions of a grid of patches: float32 [rows * columns, width].

    A quarter of the width each for sin and cos of the column, then of the row, at angular
    frequencies from 1 down to 1/10000, both ends included: big_vision's form (Beyer et al. 2022,
    "Better plain ViT baselines for ImageNet-1k", arXiv 2205.01580) of the idea of MoCo v3 (Chen
    et al. 2021, arXiv 2104.02057), which stops one frequency short of the end.

    Raises:
      ValueError: `width` is not a multiple of 4, or below 8.
    """
    if width % 4 or width < 8:
        raise ValueError(f"sincos2d positions need a width of 8, 12, 16, ... Received: {width}")
    frequencies = 10_000.0 ** -np.linspace(0, 1, width // 4)
    row, column = np.divmod(np.arange(rows * columns), columns)
    across = column[:, None] * frequencies  # [N] -> [N, D/4]
    down = row[:, None] * frequencies
    parts = [np.sin(across), np.cos(across), np.sin(down), np.cos(down)]
    return np.concatenate(parts, axis=1).astype("float32")  # 4 x [N, D/4] -> [N, D]


class _FixedSeed(keras.random.SeedGenerator):
    """A seed generator without state: it hands on the tensor it was made with.

    keras.random takes an int or a SeedGenerator, and the int would be frozen into the graph.
    """

    def __init__(self, seed: Tensor) -> None:
        self._given = seed  # no super().__init__(): it would create a variable

    def next(self, ordered: bool = True) -> Tensor:
        return self._given


def fold_in(seed: Tensor, place: str) -> Tensor:
    """The seed [2] of a place in the model, independent of every other place's.

    Both words change, by 62 bits hashed from `place`: had only one word changed, seeds that count
    steps could meet at two places.
    """
    # JAX takes its raw keys as uint32 alone; TensorFlow compiles only int32 seeds with XLA.
    dtype = "uint32" if keras.backend.backend() == "jax" else "int32"
    words = ops.convert_to_tensor(np.array(path_words(place)), dtype=dtype)
    return ops.bitwise_xor(ops.cast(seed, dtype), words)


def dropout(
    x: Tensor, rate: float, seed: Tensor | None, place: str, *, whole_examples: bool = False
) -> Tensor:
    """Zeroes entries with probability `rate` and scales the others by 1 / (1 - rate).

    Args:
      x: Floats [B, ...].
      rate: In [0, 1).
      seed: Integers [2], or None for x unchanged.
      place: Name of the place in the model; every place draws its own mask.
      whole_examples: One draw an example, for all its entries (stochastic depth).
    """
    if seed is None or rate == 0:
        return x
    shape = ops.shape(x)
    if whole_examples:
        shape = (shape[0], *[1] * (len(x.shape) - 1))
    # Drawn in float32 whatever x is: bfloat16 has 128 steps below one, too few for the rate.
    draws = keras.random.uniform(shape, dtype="float32", seed=_FixedSeed(fold_in(seed, place)))
    return ops.where(draws >= rate, x * (1 / (1 - rate)), ops.zeros((), x.dtype))
