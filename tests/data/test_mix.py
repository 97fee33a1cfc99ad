"""Targets against the closed form."""

import numpy as np
import tensorflow as tf

from pipeline.data.mix import one_hot


def test_smoothed_targets_follow_the_formula():
    targets = one_hot(tf.constant([2, 0]), 4, 0.1).numpy()
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, 0.9 * np.eye(4)[[2, 0]] + 0.1 / 4, rtol=1e-6)


def test_without_smoothing_a_target_is_exactly_one_hot():
    np.testing.assert_array_equal(one_hot(tf.constant([1]), 3), [[0, 1, 0]])
