"""Multi-head attention on queries, keys and values, with a gradient in closed form.

Shape letters are defined in `functions`.

References:
  Vaswani et al. 2017, arXiv 1706.03762.
  Dao et al. 2022, "FlashAttention", arXiv 2205.14135, appendix B (the gradient).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from pipeline.model.backend import Tensor, fused, fused_attention, product, softmax
from pipeline.model.dropout import keep_mask


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
    """Computes softmax(Q K^T), [B, n, T, T], for query and key [B, n, T, d]. Rows sum to one."""
    return softmax(product(query, key, transpose_b=True))


def attend(
    query: Tensor, key: Tensor, value: Tensor, rate: float, seed: Tensor | None, place: str
) -> Tensor:
    """Computes P V, [B, n, T, d], where P = softmax(Q K^T) with dropout but without its scaling.

    If the caller scales the value by `keep_scale(rate)`, the result is dropout(P) V. Without
    dropout, the device's fused kernel is used if there is one (`backend.fused_attention`).

    Otherwise the gradient is computed in closed form. The softmax gradient needs the sum over each
    row of P * dP, which equals the sum over d of result * d_result. This saves passes over T x T
    elements, and the scores need not be stored.

    Args:
      query: [B, n, T, d], already scaled by 1 / sqrt(d).
      key: [B, n, T, d].
      value: [B, n, T, d].
      rate: Dropout rate of the probabilities.
      seed: Integers [2], or None for no dropout.
      place: See `dropout`.
    """
    if seed is None or rate == 0:
        result = fused_attention(query, key, value)
        return _attend(query, key, value) if result is None else result
    heads, tokens = query.shape[1:3]
    shape = (ops.shape(query)[0], heads, tokens, tokens)
    return _attend(query, key, value, keep_mask(shape, rate, seed, place))


@ops.custom_gradient
def _attend(
    query: Tensor, key: Tensor, value: Tensor, *masks: Tensor
) -> tuple[Tensor, Callable[..., Any]]:
    """Attention with zero or one dropout mask.

    The mask is an argument, because custom gradients in JAX must not capture tensors.
    """
    probabilities = attention_probabilities(query, key)
    dropped = probabilities
    for kept in masks:
        dropped = _where_kept(probabilities, kept)
    result = product(dropped, value)

    def gradients(upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_value = product(dropped, upstream, transpose_a=True)
        grad_dropped = product(upstream, value, transpose_b=True)
        row_sums = _row_sums(upstream, result)  # [B, n, T, 1]
        grad_scores = _scores_gradient(probabilities, grad_dropped, row_sums, *masks)
        grad_query = product(grad_scores, key)
        grad_key = product(grad_scores, query, transpose_a=True)
        return grad_query, grad_key, grad_value, *(None for _ in masks)

    return result, gradients


@fused
def _where_kept(probabilities: Tensor, kept: Tensor) -> Tensor:
    return ops.where(kept, probabilities, ops.zeros((), probabilities.dtype))


def _row_sums(a: Tensor, b: Tensor) -> Tensor:
    # Not compiled: XLA's sum takes 1.5 times as long for rows this short in float32.
    return ops.sum(ops.cast(a, "float32") * ops.cast(b, "float32"), axis=-1, keepdims=True)


@fused
def _scores_gradient(
    probabilities: Tensor, grad_dropped: Tensor, row_sums: Tensor, kept: Tensor | None = None
) -> Tensor:
    """The gradient of the softmax's input: P (dP - rowsum(P dP)).

    All tensors are [B, n, T, T], except `row_sums` [B, n, T, 1].
    """
    grad_probabilities = ops.cast(grad_dropped, "float32")
    if kept is not None:
        grad_probabilities = ops.where(kept, grad_probabilities, 0.0)
    found = ops.cast(probabilities, "float32") * (grad_probabilities - row_sums)
    return ops.cast(found, probabilities.dtype)
