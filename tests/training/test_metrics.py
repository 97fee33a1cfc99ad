import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import DataError
from pipeline.training.metrics import (
    check_counted,
    mean_metrics,
    rank_of_class,
    sum_metrics,
    top_classes,
)


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


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_a_row_with_one_nan_predicts_no_class(classes):
    logits = np.zeros([2, classes], np.float32)
    logits[0] = np.arange(classes)
    logits[1, 0] = np.nan
    label = tf.constant([classes - 1, classes - 1])
    sums = sum_metrics(tf.constant(logits), label, tf.zeros([2]), tf.ones([2]))
    np.testing.assert_array_equal(sums, [0.0, 1.0, 1.0, 2.0])
    k = min(5, classes)
    assert top_classes(tf.constant(logits), k).numpy()[1].tolist() == [-1] * k


def test_the_likeliest_classes_are_a_stable_sort_of_logits():
    draw = np.random.default_rng(1)
    logits = draw.integers(0, 4, size=(200, 7)).astype("float32")
    logits *= 200.0  # a float32 softmax has ones and zeros only
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(top_classes(tf.constant(logits), 5), expected)


def test_figures_of_no_example_are_not_known_and_refused():
    assert mean_metrics([0.0] * 4) == {"loss": None, "accuracy": None, "top_5_accuracy": None}
    with pytest.raises(DataError, match="test: none of its 3 images can be read"):
        check_counted("test", 3, 0)


def test_examples_of_weight_zero_do_not_count_even_when_nan():
    logits = tf.constant([[2.0, 0.0], [np.nan, np.nan], [0.0, 2.0]])
    sums = sum_metrics(
        logits, tf.constant([0, 0, 0]), tf.constant([0.5, np.nan, 1.5]), tf.constant([1.0, 0, 1])
    )
    np.testing.assert_allclose(sums, [2.0, 1.0, 2.0, 2.0])
    assert mean_metrics(sums.numpy()) == pytest.approx(
        {"loss": 1.0, "accuracy": 0.5, "top_5_accuracy": 1.0}
    )
