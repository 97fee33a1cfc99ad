"""The layers of a Vision Transformer: thin Keras layers around the pure functions.

Shape letters are defined in `functions`.

No layer holds random state or has a training mode. A layer with dropout takes `dropout_seed`, an
integer tensor [2]. With `dropout_seed=None` nothing is dropped.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from keras import layers, ops

from pipeline.model.attention import attend, merge_heads, split_heads
from pipeline.model.backend import Tensor
from pipeline.model.dropout import dropout, keep_scale
from pipeline.model.elementwise import gelu, layer_norm
from pipeline.model.functions import image_to_patches, linear, sincos_positions
from pipeline.model.initial import ZEROS, Draw, InitialWeights

Shape = tuple[Any, ...]  # None where a dimension is unknown, such as the batch

NORM_EPSILON = 1e-6  # big_vision and the Keras example; Keras's own default is 1e-3


class Linear(layers.Layer):
    """A dense layer [..., I] -> [..., units]; variables kernel [I, units] and bias [units]."""

    def __init__(
        self, units: int, *, kernel: Draw, bias: Draw = ZEROS, name: str, dtype: Any = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.units = units
        self._draws = kernel, bias

    def build(self, input_shape: Shape) -> None:
        kernel, bias = self._draws
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.units),
            initializer=kernel.at(f"{self.path}/kernel"),
        )
        self.bias = self.add_weight(
            name="bias", shape=(self.units,), initializer=bias.at(f"{self.path}/bias")
        )

    def call(self, x: Tensor) -> Tensor:
        return linear(x, self.kernel, self.bias)

    def scaled(self, x: Tensor, scale: float) -> Tensor:
        """Computes `scale` times the output by scaling kernel and bias, which are smaller."""
        return linear(x, self.kernel * scale, self.bias * scale)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)


class PatchEmbedding(Linear):
    """Converts images [B, H, W, C] to tokens [B, N, D]: a strided convolution as a matrix product.

    The kernel is [P*P*C, D]; a published convolution kernel [P, P, C, D] can be reshaped to it.
    """

    def __init__(
        self, patch_size: int, width: int, *, kernel: Draw, name: str, dtype: Any = None
    ) -> None:
        super().__init__(width, kernel=kernel, name=name, dtype=dtype)
        self.patch_size = patch_size

    def build(self, input_shape: Shape) -> None:
        super().build((None, self.patch_size**2 * input_shape[-1]))

    def call(self, x: Tensor) -> Tensor:
        return super().call(image_to_patches(x, self.patch_size))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, _ = input_shape
        return batch, (height // self.patch_size) * (width // self.patch_size), self.units


class ClassToken(layers.Layer):
    """Prepends one learned token: [B, N, D] -> [B, 1 + N, D]."""

    def __init__(self, *, token: Draw, name: str, dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self._draw = token

    def build(self, input_shape: Shape) -> None:
        self.token = self.add_weight(
            name="token",
            shape=(1, 1, input_shape[-1]),
            initializer=self._draw.at(f"{self.path}/token"),
        )

    def call(self, x: Tensor) -> Tensor:
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, tokens, width = input_shape
        return batch, tokens + 1, width


class PositionEmbedding(layers.Layer):
    """Adds a position embedding to the tokens [B, T, D], then applies dropout.

    Args:
      grid: Rows and columns of patches. If there is a class token, it has a learned position like
        every other token, or zeros if positions are fixed.
      kind: "learned" for a variable [T, D], or "sincos2d" for constants.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        kind: Literal["learned", "sincos2d"],
        *,
        positions: Draw,
        dropout: float,
        name: str,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.grid, self.kind, self.dropout = grid, kind, dropout
        self._draw = positions

    def build(self, input_shape: Shape) -> None:
        _, tokens, width = input_shape
        if self.kind == "learned":
            self.positions = self.add_weight(
                name="positions",
                shape=(tokens, width),
                initializer=self._draw.at(f"{self.path}/positions"),
            )
        else:
            fixed = sincos_positions(*self.grid, width)
            self.positions = np.pad(fixed, ((tokens - len(fixed), 0), (0, 0)))

    def call(self, x: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        x = x + ops.cast(self.positions, x.dtype)  # [B, T, D] + [T, D]
        return dropout(x, self.dropout, dropout_seed, self.path)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


class SelfAttention(layers.Layer):
    """Multi-head self-attention [B, T, D] -> [B, T, D].

    Query, key, value and out are Linear layers with kernels [D, n d] and [n d, D]. On two CPU
    cores, forward and backward with 128 images of 144 tokens, width 64 and 4 heads of 64 took 106
    ms, and 151 ms with Keras's MultiHeadAttention. A single product [D, 3 n d] for query, key and
    value was 10 % slower than three products.

    Args:
      probability_dropout: Rate on the attention probabilities.
      output_dropout: Rate after the output layer.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        *,
        weights: InitialWeights,
        probability_dropout: float,
        output_dropout: float,
        name: str,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.num_heads, self.head_size = num_heads, head_size
        self.probability_dropout, self.output_dropout = probability_dropout, output_dropout
        self._kernel = weights.attention
        self.query, self.key, self.value = (
            Linear(num_heads * head_size, kernel=weights.attention, name=part, dtype=dtype)
            for part in ("query", "key", "value")
        )

    def build(self, input_shape: Shape) -> None:
        length = self.num_heads * self.head_size
        self.out = Linear(input_shape[-1], kernel=self._kernel, name="out", dtype=self.dtype_policy)
        for layer in (self.query, self.key, self.value):
            layer.build(input_shape)
        self.out.build((*input_shape[:-1], length))

    def call(self, x: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        rate = self.probability_dropout if dropout_seed is not None else 0.0
        parts = (
            self.query.scaled(x, self.head_size**-0.5),
            self.key(x),
            self.value.scaled(x, keep_scale(rate)) if rate else self.value(x),
        )
        query, key, value = (
            split_heads(part, self.num_heads) for part in parts
        )  # 3 x [B, T, n d] -> 3 x [B, n, T, d]
        place = f"{self.path}/probabilities"
        x = attend(query, key, value, rate, dropout_seed, place)
        x = self.out(merge_heads(x))  # [B, n, T, d] -> [B, T, D]
        return dropout(x, self.output_dropout, dropout_seed, f"{self.path}/out")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


class Mlp(layers.Layer):
    """A two-layer MLP with GELU on each token: [B, T, D] -> [B, T, M] -> [B, T, D].

    Args:
      activate_output: Whether a GELU also follows the second layer, as in the Keras example.
      dropout: Rate after both layers.
    """

    def __init__(
        self,
        hidden: int,
        width: int,
        *,
        weights: InitialWeights,
        form: Literal["exact", "tanh"],
        activate_output: bool,
        dropout: float,
        name: str,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.form, self.activate_output, self.dropout = form, activate_output, dropout
        kernel, bias = weights.mlp, weights.mlp_bias
        self.hidden = Linear(hidden, kernel=kernel, bias=bias, name="hidden", dtype=dtype)
        self.out = Linear(width, kernel=kernel, bias=bias, name="out", dtype=dtype)

    def build(self, input_shape: Shape) -> None:
        self.hidden.build(input_shape)
        self.out.build((*input_shape[:-1], self.hidden.units))

    def call(self, x: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        x = gelu(self.hidden(x), self.form)
        x = dropout(x, self.dropout, dropout_seed, f"{self.path}/hidden")
        x = self.out(x)
        if self.activate_output:
            x = gelu(x, self.form)
        return dropout(x, self.dropout, dropout_seed, f"{self.path}/out")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


class LayerNorm(layers.Layer):
    """Layer normalization over the last axis [..., D]; variables gamma and beta, float32 [D]."""

    def build(self, input_shape: Shape) -> None:
        self.gamma, self.beta = (
            self.add_weight(name=name, shape=input_shape[-1:], initializer=start, autocast=False)
            for name, start in (("gamma", "ones"), ("beta", "zeros"))
        )

    def call(self, x: Tensor) -> Tensor:
        # Custom gradients in TensorFlow accept tensors only, not variables.
        return layer_norm(x, ops.copy(self.gamma), ops.copy(self.beta), NORM_EPSILON)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


class EncoderBlock(layers.Layer):
    """A pre-norm block on [B, T, D]: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
      attention: Branch of the first half.
      mlp: Branch of the second half.
      stochastic_depth: Probability of skipping a branch for a whole example (Huang et al. 2016,
        arXiv 1603.09382). Kept branches are scaled up, so evaluation needs no correction.
    """

    def __init__(
        self,
        attention: SelfAttention,
        mlp: Mlp,
        *,
        stochastic_depth: float,
        name: str,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.stochastic_depth = stochastic_depth
        self.attention_norm = LayerNorm(name="attention_norm", dtype=dtype)
        self.attention = attention
        self.mlp_norm = LayerNorm(name="mlp_norm", dtype=dtype)
        self.mlp = mlp

    def build(self, input_shape: Shape) -> None:
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(input_shape)

    def call(self, x: Tensor, dropout_seed: Tensor | None = None) -> Tensor:
        x = x + self._maybe(self.attention(self.attention_norm(x), dropout_seed), dropout_seed, 0)
        return x + self._maybe(self.mlp(self.mlp_norm(x), dropout_seed), dropout_seed, 1)

    def _maybe(self, branch: Tensor, seed: Tensor | None, which: int) -> Tensor:
        place = f"{self.path}/branch_{which}"
        return dropout(branch, self.stochastic_depth, seed, place, whole_examples=True)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
