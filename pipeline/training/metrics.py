"""Exact loss, top-1 and top-5: sums over examples, divided once at the end.

Sums are float64 and each example carries a weight of 0 or 1, so that the figures do not depend on
how examples were divided over batches, replicas and processes.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from pipeline.errors import DataError

TOP_K = 5
SUMS = ("loss", "accuracy", "top_5_accuracy", "examples")


def rank_of_class(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """How many classes come before `label` when sorted by falling logit, ties by class number.

    Rank 0 is argmax. Unlike `tf.math.in_top_k`, which takes every class of a tie as found, so that
    a model whose logits are all equal would have 100 % accuracy. In a row with NaN no class is
    predicted: the rank is the largest int32.

    Args:
      logits: Float [B, C].
      label: Int32 [B].

    Returns:
      Int32 [B].
    """
    own = tf.gather(logits, label, batch_dims=1)[:, None]  # [B, C] -> [B, 1]
    earlier = tf.range(tf.shape(logits)[1])[None, :] < label[:, None]  # [B, C]
    ahead = (logits > own) | ((logits == own) & earlier)
    rank = tf.reduce_sum(tf.cast(ahead, tf.int32), axis=1)  # [B, C] -> [B]
    return tf.where(has_nan(logits), tf.int32.max, rank)


def likeliest_classes(logits: tf.Tensor, count: int) -> tf.Tensor:
    """The `count` classes of the largest logits in falling order, ties by class number.

    A class is at place k exactly where `rank_of_class` is k. In a row with NaN all are -1.

    Args:
      logits: Float [B, C].
      count: At most C.

    Returns:
      Int32 [B, count].
    """
    places = tf.math.top_k(logits, count).indices
    return tf.where(has_nan(logits)[:, None], -1, places)


def has_nan(logits: tf.Tensor) -> tf.Tensor:
    """Which rows have a NaN: float [B, C] -> bool [B]."""
    return tf.reduce_any(tf.math.is_nan(logits), axis=1)


def sum_metrics(
    logits: tf.Tensor, label: tf.Tensor, loss: tf.Tensor, weight: tf.Tensor
) -> tf.Tensor:
    """Sums over a batch, float64 [4], in the order of `SUMS`.

    Args:
      logits: Float [B, C].
      label: Int32 [B], the class that counts as right.
      loss: Float [B].
      weight: Float [B], 0 for padding and unreadable images, else 1.
    """
    rank = rank_of_class(logits, label)
    columns = [loss, rank < 1, rank < TOP_K, tf.ones_like(label)]
    stacked = tf.stack([tf.cast(column, tf.float64) for column in columns])  # 4 x [B] -> [4, B]
    weight = tf.cast(weight, tf.float64)
    # Not a product: a NaN loss of an example that does not count must not reach the sum.
    return tf.reduce_sum(tf.where(weight > 0, stacked * weight, 0.0), axis=1)


def mean_metrics(sums: Iterable[float]) -> dict[str, float | None]:
    """Loss, accuracy and top_5_accuracy of one example, from sums in the order of SUMS.

    They are None where there was no example.
    """
    *values, examples = (float(value) for value in sums)
    return {
        name: value / examples if examples else None
        for name, value in zip(SUMS, values, strict=False)
    }


def check_counted(split: str, examples: int, counted: int) -> None:
    """Refuses figures of no example; all processes must call it with the same numbers.

    Raises:
      DataError: None of the split's examples was counted.
    """
    if not counted:
        error = DataError(
            f"{split}: none of its {examples:,} images can be read. Look at the files with `vit "
            "doctor`"
        )
        error.said_by_chief = True
        raise error
