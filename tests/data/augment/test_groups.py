"""Changes by group against a loop over examples."""

import numpy as np
import tensorflow as tf

from pipeline.data.augment.groups import change_by_group

CHANGES = (lambda x, y: x + y, lambda x, y: x - y, lambda x, y: 2.0 * x, lambda x, y: -x)


def test_each_example_goes_through_the_change_of_its_group():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 9, 4, 2)).astype(np.float32)
    group = np.array([3, 0, 1, 1, 0, 3, 3, 0, 1], np.int32)  # none in group 2
    expected = [CHANGES[k](one, other) for k, one, other in zip(group, x, y, strict=True)]
    changed = change_by_group(tf.constant(group), CHANGES, tf.constant(x), tf.constant(y))
    np.testing.assert_allclose(changed, expected, rtol=1e-6)


def test_the_number_of_examples_stays_known_in_a_graph():
    @tf.function
    def double(x):
        result = change_by_group(tf.zeros([3], tf.int32), [lambda x: x + x], x)
        assert result.shape == [3, 5]
        return result

    np.testing.assert_array_equal(double(tf.ones([3, 5])), np.full([3, 5], 2.0))
