"""`batched_switch` against a loop over examples."""

import numpy as np
import tensorflow as tf

from pipeline.data.augment.batched_switch import batched_switch

BRANCHES = (lambda x, y: x + y, lambda x, y: x - y, lambda x, y: 2.0 * x, lambda x, y: -x)


def test_each_example_goes_through_its_branch():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 9, 4, 2)).astype(np.float32)
    index = np.array([3, 0, 1, 1, 0, 3, 3, 0, 1], np.int32)  # none in branch 2
    expected = [BRANCHES[k](one, other) for k, one, other in zip(index, x, y, strict=True)]
    result = batched_switch(tf.constant(index), BRANCHES, tf.constant(x), tf.constant(y))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_the_batch_size_stays_static_in_a_graph():
    @tf.function(autograph=False)
    def double(x):
        result = batched_switch(tf.zeros([3], tf.int32), [lambda x: x + x], x)
        assert result.shape == [3, 5]
        return result

    np.testing.assert_array_equal(double(tf.ones([3, 5])), np.full([3, 5], 2.0))
