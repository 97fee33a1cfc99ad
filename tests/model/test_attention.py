"""Attention against the same formula in small steps with automatic gradients."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.model.attention import attend
from pipeline.model.dropout import keep_mask, keep_scale

SHAPE = (2, 3, 7, 4)  # B, n, T, d: an odd T, so that the draws' words do not come out even
SEED = tf.constant([3, 4], tf.int32)


def normal(seed):
    return tf.constant(np.random.default_rng(seed).normal(size=SHAPE).astype("float32"))


def plain(query, key, value, rate):
    """The formula with the masks that `attend` draws."""
    shares = tf.nn.softmax(tf.einsum("bntd,bnsd->bnts", query, key))
    if rate:
        shares *= tf.cast(keep_mask(shares.shape, rate, SEED, "place"), tf.float32)
    return tf.einsum("bnts,bnsd->bntd", shares, value)


@pytest.mark.usefixtures("plain_and_compiled")
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_result_and_gradients_are_those_of_the_formula(rate):
    inputs, upstream = [normal(i) for i in range(3)], normal(3)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        ours = attend(*inputs, rate, SEED, "place")
        expected = plain(*inputs, rate)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    found = tape.gradient(ours, inputs, upstream)
    for a, b in zip(found, tape.gradient(expected, inputs, upstream), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("plain_and_compiled")
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_bfloat16_is_close_to_float32(rate):
    inputs, upstream = [normal(i) for i in range(3)], normal(3)
    exact, rounded = [], []
    for dtype, found in ((tf.float32, exact), (tf.bfloat16, rounded)):

        @tf.function(autograph=False)
        def both(inputs, upstream):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = attend(*inputs, rate, SEED, "place")
            return [y, *tape.gradient(y, inputs, upstream)]

        cast = [tf.cast(x, dtype) for x in inputs]
        results = both(cast, tf.cast(upstream, dtype))
        assert all(result.dtype == dtype for result in results)
        found += [np.asarray(tf.cast(result, tf.float32)) for result in results]
    for a, b in zip(rounded, exact, strict=True):
        assert np.abs(a - b).max() < 0.03 * np.abs(b).max()


def test_masks_have_the_rate_and_scale_keeps_the_mean():
    kept = keep_mask((1000, 1001), 0.1, SEED, "place")
    share = float(tf.reduce_mean(tf.cast(kept, tf.float32)))
    assert abs(share - 0.9) < 5 * np.sqrt(0.09 / kept.shape.num_elements())
    assert keep_scale(0.25) == pytest.approx(4 / 3, rel=1e-9)
    assert keep_scale(0.1) == pytest.approx(1 / 0.9, rel=2e-5)
    assert keep_scale(0.0) == 1
