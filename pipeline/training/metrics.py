"""Exact loss, top-1 and top-5 accuracy: sums over examples, divided once at the end.

The sums are float64, each example has a weight of 0 or 1, and each loss is rounded to a multiple of
2**-26, which is 1.5e-8. float64 represents all such multiples below 2**27 exactly, so the sums have
no rounding error and do not depend on how the examples are divided into batches, replicas and
processes.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from pipeline.errors import DataError

TOP_K = 5
SUMS = ("loss", "accuracy", "top_5_accuracy", "examples")
_LOSS_UNIT = 2.0**-26


def rank_of_class(logits: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """Rank of `label` among all classes, sorted by descending logit and then by class index.

    Rank 0 is the argmax. In contrast, `tf.math.in_top_k` counts every class of a tie as correct, so
    a model with equal logits would have an accuracy of 100 %. If a row of logits has a NaN, no
    class is predicted and the rank is the largest int32.

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


def top_classes(logits: tf.Tensor, count: int) -> tf.Tensor:
    """The `count` classes with the largest logits, in descending order, ties by class index.

    The class in column k is the one whose `rank_of_class` is k. In rows with NaN, all are -1.

    Args:
      logits: Float [B, C].
      count: Number of classes, at most C.

    Returns:
      Int32 [B, count].
    """
    classes = tf.math.top_k(logits, count).indices
    return tf.where(has_nan(logits)[:, None], -1, classes)


def has_nan(logits: tf.Tensor) -> tf.Tensor:
    """Whether each row has a NaN: float [B, C] -> bool [B]."""
    return tf.reduce_any(tf.math.is_nan(logits), axis=1)


def sum_metrics(
    logits: tf.Tensor, label: tf.Tensor, loss: tf.Tensor, weight: tf.Tensor
) -> tf.Tensor:
    """Sums the metrics over a batch.

    Args:
      logits: Float [B, C].
      label: Int32 [B], the correct class.
      loss: Float [B], rounded to a multiple of 2**-26.
      weight: Float [B], 0 for padding and unreadable images, else 1.

    Returns:
      Float64 [4], in the order of `SUMS`.
    """
    rank = rank_of_class(logits, label)
    loss = tf.round(tf.cast(loss, tf.float64) / _LOSS_UNIT) * _LOSS_UNIT
    columns = [loss, rank < 1, rank < TOP_K, tf.ones_like(label)]
    stacked = tf.stack([tf.cast(column, tf.float64) for column in columns])  # 4 x [B] -> [4, B]
    weight = tf.cast(weight, tf.float64)
    # Use `where`, because NaN * 0 is NaN: an example of weight 0 must not affect the sum.
    return tf.reduce_sum(tf.where(weight > 0, stacked * weight, 0.0), axis=1)


def mean_metrics(sums: Iterable[float]) -> dict[str, float | None]:
    """Mean loss, accuracy and top_5_accuracy from sums in the order of `SUMS`.

    The values are None if there were no examples.
    """
    *values, examples = (float(value) for value in sums)
    return {
        name: value / examples if examples else None
        for name, value in zip(SUMS, values, strict=False)
    }


def check_counted(split: str, examples: int, counted: int) -> None:
    """Raises an error if no example was counted. All processes must call it with equal arguments.

    Raises:
      DataError: None of the split's examples was counted.
    """
    if not counted:
        error = DataError(
            f"{split}: none of its {examples:,} images can be read. Check the files with `vit "
            "doctor`"
        )
        error.said_by_chief = True
        raise error
