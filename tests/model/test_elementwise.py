"""GELU and layer normalization against their formulas, and gradients against automatic ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from scipy.special import erf

from pipeline.model.elementwise import gelu, layer_norm

TOLERANCE = {"float32": 2e-6, "bfloat16": 8e-3}  # bfloat16 has 8 bits: 1/256 of the number


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("float32")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", ["exact", "tanh"])
def test_gelu_and_its_gradient_are_those_of_the_definition(form, dtype, plain_and_compiled):
    # Past 5 the exact form is x or 0 in float32; in bfloat16 x itself is what it is rounded to.
    x = tf.cast(normal(2000, scale=2.5), dtype)
    upstream = tf.cast(normal(2000, seed=1), dtype)

    @tf.function(autograph=False)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = gelu(x, form)
        return y, tape.gradient(y, x, upstream)

    value, above = (np.asarray(tf.cast(t, tf.float64)) for t in (x, upstream))
    if form == "exact":
        share = (1 + erf(value / np.sqrt(2))) / 2
        slope = share + value * np.exp(-(value**2) / 2) / np.sqrt(2 * np.pi)
    else:
        inner = np.sqrt(2 / np.pi) * (value + 0.044715 * value**3)
        share = (1 + np.tanh(inner)) / 2
        change = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * value**2)
        slope = share + value * change / (2 * np.cosh(inner) ** 2)
    y, gradient = both(x)
    assert y.dtype == gradient.dtype == x.dtype
    # XLA's erf is 1e-7 off where it is -1, which is times x here.
    part = 4 if plain_and_compiled == "plain" else 2
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] / part}
    np.testing.assert_allclose(tf.cast(y, tf.float64), value * share, **near)
    np.testing.assert_allclose(tf.cast(gradient, tf.float64), above * slope, **near)


@pytest.mark.usefixtures("plain_and_compiled")
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_layer_norm_and_its_gradients_are_those_of_keras(dtype):
    shape = (3, 50, 64)
    x = tf.cast(normal(*shape, scale=3) + 1, dtype)
    upstream = tf.cast(normal(*shape, seed=1), dtype)
    gamma, beta = tf.constant(1 + normal(64, seed=2)), tf.constant(normal(64, seed=3))
    stock = keras.layers.LayerNormalization(
        epsilon=1e-6, dtype="float32" if dtype == "float32" else "mixed_bfloat16"
    )
    stock.build(x.shape)
    stock.gamma.assign(gamma)
    stock.beta.assign(beta)
    weights = [v.value for v in stock.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, gamma, beta])
        ours, theirs = layer_norm(x, gamma, beta, 1e-6), stock(x)
    found = [ours, *tape.gradient(ours, [x, gamma, beta], upstream)]
    expected = [theirs, *tape.gradient(theirs, [x, *weights], upstream)]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(tf.cast(t, tf.float32)) for t in (a, b))
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=2 * TOLERANCE[dtype])


def test_layer_norm_of_a_constant_row_is_beta_and_its_gradient_is_finite():
    x = tf.ones([2, 8])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer_norm(x, tf.ones([8]), tf.fill([8], 0.5), 1e-6)
    np.testing.assert_allclose(y, np.full((2, 8), 0.5))
    assert np.all(np.isfinite(tape.gradient(y, x, ops.ones((2, 8)))))
