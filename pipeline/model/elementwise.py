"""GELU and layer normalization, with their gradients in closed form.

What Keras composes of small operations keeps the result of each for the gradient, and goes through
all of them once more on the way back. Here the input is kept, and of a norm two numbers a row. Both
ways are computed in float32 whatever the numbers are: as fast on a CPU, where each operation on
bfloat16 converts its numbers both ways by itself. Measured forward and back, 64 x 64 x 256 numbers
on two cores: GELU 8.3 -> 3.4 ms in bfloat16 and 3.9 -> 3.0 in float32 (tanh 5.8 -> 4.1, 3.8 ->
3.4), normalization 5.0 -> 3.1 and 4.3 -> 2.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from keras import ops

from pipeline.model.backend import Tensor, fused

_CURVE, _SLOPE = 0.044715, 2 * math.sqrt(2 / math.pi)  # of the tanh form
_DENSITY = 1 / math.sqrt(2 * math.pi)  # of the normal distribution, at 0


def gelu(x: Tensor, form: Literal["exact", "tanh"]) -> Tensor:
    """x times the normal distribution function at x, or its tanh form (arXiv 1606.08415)."""
    return _gelu_tanh(x) if form == "tanh" else _gelu_exact(x)


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    """(x - mean) / deviation * gamma + beta over the last axis (Ba et al. 2016, arXiv 1607.06450).

    Computed on rows: TensorFlow sums over one axis faster than over two (forward and back by 8 % in
    float32, in bfloat16 as fast).

    Args:
      x: [B, ..., D].
      gamma: float32 [D].
      beta: float32 [D].
      epsilon: Added to the variance.
    """

    @ops.custom_gradient
    def function(x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Callable[..., Any]]:
        mean = ops.mean(_float32(x), axis=-1, keepdims=True)  # [R, 1]
        centred = _float32(x) - mean
        variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
        inverse = ops.rsqrt(variance + epsilon)

        def gradients(upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            normal = (_float32(x) - mean) * inverse
            above = _float32(upstream)
            inner = above * gamma
            shared = ops.mean(inner, axis=-1, keepdims=True)
            along = ops.mean(inner * normal, axis=-1, keepdims=True)
            of_x = (inner - shared - normal * along) * inverse
            of_gamma = ops.sum(above * normal, axis=0)
            return ops.cast(of_x, x.dtype), of_gamma, ops.sum(above, axis=0)

        return ops.cast(centred * (inverse * gamma) + beta, x.dtype), gradients

    rows = ops.reshape(x, (-1, x.shape[-1]))  # [B, ..., D] -> [R, D]
    rows = function(rows, gamma, beta)
    return ops.reshape(rows, (-1, *x.shape[1:]))  # [R, D] -> [B, ..., D]


@ops.custom_gradient
def _gelu_exact(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    value = _float32(x)
    result = ops.cast(value * _distribution(value), x.dtype)
    return result, lambda upstream: _gelu_exact_gradient(x, upstream)


@fused
def _gelu_exact_gradient(x: Tensor, upstream: Tensor) -> Tensor:
    value = _float32(x)
    density = _DENSITY * ops.exp(-0.5 * ops.square(value))
    return ops.cast(_float32(upstream) * (_distribution(value) + value * density), x.dtype)


def _distribution(value: Tensor) -> Tensor:
    return 0.5 + 0.5 * ops.erf(value * math.sqrt(0.5))


@ops.custom_gradient
def _gelu_tanh(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    value = _float32(x)
    result = ops.cast(value * _tanh_share(value), x.dtype)
    return result, lambda upstream: _gelu_tanh_gradient(x, upstream)


@fused
def _gelu_tanh_gradient(x: Tensor, upstream: Tensor) -> Tensor:
    value = _float32(x)
    share = _tanh_share(value)
    inner = value * (_SLOPE + 3 * _SLOPE * _CURVE * ops.square(value))
    return ops.cast(_float32(upstream) * (share + share * (1 - share) * inner), x.dtype)


def _tanh_share(value: Tensor) -> Tensor:
    # (1 + tanh(u)) / 2 = sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
    return ops.sigmoid(value * (_SLOPE + _SLOPE * _CURVE * ops.square(value)))


def _float32(x: Tensor) -> Tensor:
    return ops.cast(x, "float32")
