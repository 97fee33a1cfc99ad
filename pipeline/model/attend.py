"""Attention's core: from queries, keys and values to what each token takes from the others.

Letters as in `functions`. References: Vaswani et al. 2017, arXiv 1706.03762; for the gradient Dao
et al. 2022, "FlashAttention", arXiv 2205.14135, appendix B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from pipeline.model.backend import Tensor, attention_in_one_kernel, fused, product, softmax
from pipeline.model.dropout import kept_places


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
    """softmax(Q K^T) for query and key [B, n, T, d]: [B, n, T, T], rows sum to one."""
    return softmax(product(query, key, transpose_b=True))


def attend(
    query: Tensor, key: Tensor, value: Tensor, rate: float, seed: Tensor | None, place: str
) -> Tensor:
    """P = softmax(Q K^T) with some of it zeroed, times V [B, n, T, d]: likewise.

    With a value that was scaled by `scale_of_kept(rate)` that is dropout(P) V. Without dropout it
    is the device's own kernel where there is one (`backend.attention_in_one_kernel`). Else the
    gradient is in closed form: what the softmax's needs of each row of P and its gradient, the sum
    of their products, is the sum over d of the products of the result and its gradient. So passes
    over T T numbers fall away, and the scores are not kept.

    Args:
      query: With 1 / sqrt(d) in it.
      key: Likewise in shape.
      value: Likewise.
      rate: Of the dropout on the probabilities.
      seed: Integers [2], or None for no dropout.
      place: As for `dropout`.
    """
    if seed is None or rate == 0:
        result = attention_in_one_kernel(query, key, value)
        return _attend(query, key, value) if result is None else result
    heads, tokens = query.shape[1:3]
    shape = (ops.shape(query)[0], heads, tokens, tokens)
    return _attend(query, key, value, kept_places(shape, rate, seed, place))


@ops.custom_gradient
def _attend(
    query: Tensor, key: Tensor, value: Tensor, *masks: Tensor
) -> tuple[Tensor, Callable[..., Any]]:
    """With no mask, or with the one that says which probabilities are kept.

    JAX wants what decides the result as an argument, and not from around the function.
    """
    shares = attention_probabilities(query, key)
    dropped = shares
    for kept in masks:
        dropped = _where_kept(shares, kept)
    result = product(dropped, value)

    def gradients(upstream: Tensor) -> tuple[Tensor | None, ...]:
        of_value = product(dropped, upstream, transpose_a=True)
        of_dropped = product(upstream, value, transpose_b=True)
        along = _row_sums(upstream, result)  # [B, n, T, 1]
        of_scores = _gradient_of_scores(shares, of_dropped, along, *masks)
        of_query = product(of_scores, key)
        of_key = product(of_scores, query, transpose_a=True)
        return of_query, of_key, of_value, *(None for _ in masks)

    return result, gradients


@fused
def _where_kept(shares: Tensor, kept: Tensor) -> Tensor:
    return ops.where(kept, shares, ops.zeros((), shares.dtype))


def _row_sums(a: Tensor, b: Tensor) -> Tensor:
    # Not compiled: of so few numbers a row XLA's sum takes half as long again in float32.
    return ops.sum(ops.cast(a, "float32") * ops.cast(b, "float32"), axis=-1, keepdims=True)


@fused
def _gradient_of_scores(
    shares: Tensor, of_dropped: Tensor, along: Tensor, kept: Tensor | None = None
) -> Tensor:
    """Of the softmax's input: P (dP - the row's sum of P dP), all [B, n, T, T] or [B, n, T, 1]."""
    of_shares = ops.cast(of_dropped, "float32")
    if kept is not None:
        of_shares = ops.where(kept, of_shares, 0.0)
    found = ops.cast(shares, "float32") * (of_shares - along)
    return ops.cast(found, shares.dtype)
