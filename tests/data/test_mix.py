"""Targets and mixing against the closed form, and SciPy's distributions."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from pipeline.data.mix import mixup, mixup_lambda, one_hot


def test_smoothed_targets_follow_the_formula():
    targets = one_hot(tf.constant([2, 0]), 4, 0.1).numpy()
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, 0.9 * np.eye(4)[[2, 0]] + 0.1 / 4, rtol=1e-6)


def test_without_smoothing_a_target_is_exactly_one_hot():
    np.testing.assert_array_equal(one_hot(tf.constant([1]), 3), [[0, 1, 0]])


def draw_lambda(alpha, num=40_000, epoch=0):
    epochs = tf.fill([num], tf.constant(epoch, tf.int64))
    return mixup_lambda(alpha, 7, epochs, tf.range(num, dtype=tf.int64)).numpy()


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 3.0])
def test_how_much_is_kept_is_beta_distributed_and_one_number_a_pair(alpha):
    keep = draw_lambda(alpha)
    np.testing.assert_array_equal(keep[::2], keep[1::2])
    edges = np.linspace(0.0, 1.0, 21)
    counts, expected = (
        np.histogram(keep[::2], edges)[0],
        np.diff(stats.beta.cdf(edges, alpha, alpha)),
    )
    assert stats.chisquare(counts, expected * len(keep[::2])).pvalue > 1e-3
    assert abs(np.corrcoef(keep[::2], draw_lambda(alpha, epoch=1)[::2])[0, 1]) < 0.03


def test_partners_are_the_two_of_a_pair_and_keep_their_share():
    values = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    keep = np.float32([0.2, 0.2, 1.0, 1.0, 0.5, 0.5])
    expected = keep[:, None, None] * values + (1 - keep[:, None, None]) * values[[1, 0, 3, 2, 5, 4]]
    np.testing.assert_allclose(mixup(tf.constant(values), tf.constant(keep)), expected, rtol=1e-6)


def test_mixed_targets_still_sum_to_one():
    targets = one_hot(tf.constant([0, 1, 2, 2]), 3, 0.1)
    mixed = mixup(targets, tf.constant([0.3, 0.3, 0.9, 0.9])).numpy()
    np.testing.assert_allclose(mixed.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(mixed[2], targets[2], rtol=1e-6)
