import numpy as np
import pytest
import tensorflow as tf

from pipeline.train.metrics import mean_metrics, rank_of_class, sum_metrics


def test_ranks_equal_a_stable_sort():
    draw = np.random.default_rng(0)
    logits = draw.integers(0, 4, size=(50, 7)).astype("float32")  # many ties
    label = draw.integers(0, 7, size=50).astype("int32")
    order = np.argsort(-logits, axis=1, kind="stable")
    expected = [list(row).index(k) for row, k in zip(order, label, strict=True)]
    np.testing.assert_array_equal(rank_of_class(tf.constant(logits), tf.constant(label)), expected)


def test_a_model_that_says_nothing_is_right_only_by_chance():
    label = tf.range(10, dtype=tf.int32)
    assert int(tf.reduce_sum(tf.cast(rank_of_class(tf.zeros([10, 10]), label) < 1, tf.int32))) == 1


def test_nan_logits_are_wrong():
    logits = tf.fill([2, 10], np.float32(np.nan))
    assert (rank_of_class(logits, tf.zeros([2], tf.int32)).numpy() >= 5).all()


def test_examples_of_weight_zero_do_not_count_even_when_nan():
    logits = tf.constant([[2.0, 0.0], [np.nan, np.nan], [0.0, 2.0]])
    sums = sum_metrics(
        logits, tf.constant([0, 0, 0]), tf.constant([0.5, np.nan, 1.5]), tf.constant([1.0, 0, 1])
    )
    np.testing.assert_allclose(sums, [2.0, 1.0, 2.0, 2.0])
    assert mean_metrics(sums.numpy()) == pytest.approx(
        {"loss": 1.0, "accuracy": 0.5, "top_5_accuracy": 1.0}
    )
