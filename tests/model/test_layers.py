"""The parts of the model against NumPy, closed forms and statistics."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from pipeline.model.attention import attention_probabilities
from pipeline.model.dropout import dropout, fold_in
from pipeline.model.elementwise import gelu
from pipeline.model.functions import image_to_patches, linear, sincos_positions
from pipeline.model.initial import Draw, vit_weights
from pipeline.model.layers import (
    ClassToken,
    EncoderBlock,
    Mlp,
    PatchEmbedding,
    PositionEmbedding,
    SelfAttention,
)

RNG = np.random.default_rng(0)
WEIGHTS = vit_weights(0, width=8)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("float32")


def seed(first: int, second: int = 0) -> tf.Tensor:
    return tf.constant([first, second], "int32")


def randomize(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    """Fills all variables with normal numbers, so that no bias hides at zero."""
    for variable in layer.variables:
        variable.assign(0.3 * normal(*variable.shape))
    return {v.path: np.asarray(v.value, "float64") for v in layer.variables}


def test_patch_embedding_is_a_strided_convolution() -> None:
    layer = PatchEmbedding(4, 8, kernel=WEIGHTS.patches, name="patches")
    layer.build((None, 12, 20, 3))
    randomize(layer)
    images = normal(2, 12, 20, 3)
    kernel = ops.reshape(layer.kernel, (4, 4, 3, 8))
    expected = ops.conv(images, kernel, strides=4, padding="valid") + layer.bias
    np.testing.assert_allclose(
        layer(images), ops.reshape(expected, (2, 15, 8)), rtol=1e-5, atol=1e-5
    )
    assert layer.compute_output_shape((None, 12, 20, 3)) == (None, 15, 8)


def test_patches_refuse_sides_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"multiples of patch_size=4.*12 x 18"):
        image_to_patches(ops.zeros((1, 12, 18, 3)), 4)


def test_linear_is_a_product_and_a_sum() -> None:
    x, kernel, bias = normal(2, 3, 5), normal(5, 4), normal(4)
    np.testing.assert_allclose(linear(x, kernel, bias), x @ kernel + bias, rtol=1e-5, atol=1e-6)


def test_attention_is_softmax_of_query_key_times_value() -> None:
    layer = SelfAttention(
        3, 4, weights=WEIGHTS, probability_dropout=0.0, output_dropout=0.0, name="attention"
    )
    layer.build((None, 7, 8))
    w = randomize(layer)
    x = normal(2, 7, 8)
    for b in range(2):
        q, k, v = (
            x[b] @ w[f"attention/{p}/kernel"] + w[f"attention/{p}/bias"]
            for p in ("query", "key", "value")
        )
        heads = []
        for h in range(3):
            part = slice(4 * h, 4 * h + 4)
            exp = np.exp(q[:, part] @ k[:, part].T / 2)  # sqrt(4) = 2
            heads.append(exp / exp.sum(axis=1, keepdims=True) @ v[:, part])
        expected = np.hstack(heads) @ w["attention/out/kernel"] + w["attention/out/bias"]
        np.testing.assert_allclose(layer(x)[b], expected, rtol=1e-4, atol=1e-5)


def test_softmax_in_mixed_precision_is_computed_in_float32() -> None:
    # 1,024 equal scores: each share is 2**-10, and their sum in bfloat16 would stop at 256 terms.
    zeros = ops.zeros((1, 1, 1024, 4), "bfloat16")
    shares = attention_probabilities(zeros, zeros)
    assert shares.dtype == "bfloat16"
    np.testing.assert_array_equal(ops.cast(shares[0, 0, 0], "float32"), 2.0**-10)


def test_gelu_forms() -> None:
    x = np.linspace(-4, 4, 33)
    exact = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    np.testing.assert_allclose(gelu(x.astype("float32"), "exact"), exact, atol=1e-6)
    tanh = x / 2 * (1 + np.tanh(inner))
    np.testing.assert_allclose(gelu(x.astype("float32"), "tanh"), tanh, atol=1e-6)
    assert np.abs(tanh - exact).max() > 1e-4


def test_sincos_positions_follow_the_closed_form() -> None:
    table = sincos_positions(2, 3, 16)
    assert table.dtype == np.float32
    assert table.shape == (6, 16)
    for row in range(2):
        for column in range(3):
            for k in range(4):
                frequency = 10_000 ** (-k / 3)
                got = table[3 * row + column, [k, 4 + k, 8 + k, 12 + k]]
                across, down = column * frequency, row * frequency
                expected = math.sin(across), math.cos(across), math.sin(down), math.cos(down)
                np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("width", [4, 10])
def test_sincos_positions_refuse_other_widths(width: int) -> None:
    with pytest.raises(ValueError, match=f"Received: {width}"):
        sincos_positions(2, 2, width)


def test_fixed_positions_leave_the_class_token_alone() -> None:
    layer = PositionEmbedding(
        (2, 2), "sincos2d", positions=WEIGHTS.positions, dropout=0.0, name="positions"
    )
    layer.build((None, 5, 8))
    added = layer(np.zeros((1, 5, 8), "float32"))[0]
    np.testing.assert_array_equal(added[0], 0)
    np.testing.assert_array_equal(added[1:], sincos_positions(2, 2, 8))
    assert not layer.variables


def test_the_class_token_comes_first_and_the_positions_of_all_are_learned() -> None:
    token = ClassToken(token=WEIGHTS.token, name="class_token")
    token.build((None, 4, 8))
    randomize(token)
    x = normal(3, 4, 8)
    y = token(x)
    np.testing.assert_array_equal(y[:, 1:], x)
    np.testing.assert_array_equal(y[:, 0], np.repeat(np.asarray(token.token)[0], 3, axis=0))
    layer = PositionEmbedding(
        (2, 2), "learned", positions=WEIGHTS.positions, dropout=0.0, name="positions"
    )
    layer.build((None, 5, 8))
    np.testing.assert_allclose(layer(y) - y, np.tile(layer.positions, (3, 1, 1)), atol=1e-6)


@pytest.mark.usefixtures("plain_and_compiled")
def test_dropout_zeroes_the_given_part_and_scales_the_rest() -> None:
    y = np.asarray(dropout(np.ones((400, 500), "float32"), 0.25, seed(1), "place"))
    zeros = np.mean(y == 0)
    assert abs(zeros - 0.25) < 5 * math.sqrt(0.25 * 0.75 / y.size)
    np.testing.assert_allclose(y[y != 0], 1 / 0.75, rtol=1e-6)


@pytest.mark.usefixtures("plain_and_compiled")
def test_dropout_keeps_its_rate_in_bfloat16() -> None:
    # 128 steps below one would make 13/128 = 0.1016 of it.
    y = dropout(ops.ones((1000, 1000), "bfloat16"), 0.1, seed(1), "place")
    assert y.dtype == "bfloat16"
    zeros = np.mean(np.asarray(ops.cast(y, "float32")) == 0)
    assert abs(zeros - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 1e6)


def test_without_seed_or_rate_nothing_is_dropped() -> None:
    x = normal(4, 5)
    assert dropout(x, 0.5, None, "place") is x
    assert dropout(x, 0.0, seed(1), "place") is x


@pytest.mark.usefixtures("plain_and_compiled")
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32"])
def test_masks_are_a_function_of_seed_and_place(dtype: str) -> None:
    def mask(first: int, second: int, place: str) -> np.ndarray:
        given = tf.constant([first, second], dtype)
        return np.asarray(dropout(np.ones((300, 300), "float32"), 0.3, given, place)) == 0

    one = mask(5, 6, "a")
    np.testing.assert_array_equal(one, mask(5, 6, "a"))
    for other in (mask(5, 7, "a"), mask(6, 6, "a"), mask(5, 6, "b")):
        both = np.mean(one & other)  # independent: 0.3 * 0.3
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / one.size)


def test_places_and_steps_have_different_seeds() -> None:
    folded = {
        tuple(np.asarray(fold_in(seed(7, step), f"vit/block_{block}/mlp/{part}")))
        for step in range(40)
        for block in range(12)
        for part in ("hidden", "out")
    }
    assert len(folded) == 40 * 12 * 2


def test_the_seed_is_an_argument_of_the_graph_not_frozen_into_it() -> None:
    @tf.function(autograph=False)
    def drop(given: tf.Tensor) -> tf.Tensor:
        return dropout(tf.ones((50, 50)), 0.5, given, "place")

    first, again, other = drop(seed(1)), drop(seed(1)), drop(seed(2))
    assert drop.experimental_get_tracing_count() == 1
    np.testing.assert_array_equal(first, again)
    assert np.any(first.numpy() != other.numpy())


def block(stochastic_depth: float, **rates: float) -> EncoderBlock:
    """A block of width 8 with random weights, built for 5 tokens."""
    rates = {"attention": 0.0, "output": 0.0, "mlp": 0.0, **rates}
    attention = SelfAttention(
        2,
        4,
        weights=WEIGHTS,
        probability_dropout=rates["attention"],
        output_dropout=rates["output"],
        name="attention",
    )
    mlp = Mlp(
        16,
        8,
        weights=WEIGHTS,
        form="exact",
        activate_output=False,
        dropout=rates["mlp"],
        name="mlp",
    )
    layer = EncoderBlock(attention, mlp, stochastic_depth=stochastic_depth, name="block")
    layer.build((None, 5, 8))
    randomize(layer)
    return layer


def test_stochastic_depth_leaves_out_the_branches_of_whole_examples() -> None:
    layer = block(0.4)
    for variable in (layer.mlp.out.kernel, layer.mlp.out.bias):
        variable.assign(ops.zeros_like(variable))  # leaves the attention's branch alone
    x = np.tile(normal(1, 5, 8), (4000, 1, 1))
    branch = np.asarray(layer(x[:1]) - x[:1])[0]
    dropped = np.asarray(layer(x, seed(3)) - x)
    share = dropped / branch  # 0 for an example left out, 1 / 0.6 for one kept
    kept = share[:, 0, 0] > 0.5
    np.testing.assert_allclose(share[kept], 1 / 0.6, rtol=2e-2)
    np.testing.assert_array_equal(dropped[~kept], 0)
    assert abs(kept.mean() - 0.6) < 5 * math.sqrt(0.6 * 0.4 / 4000)


def test_the_two_branches_are_skipped_independently() -> None:
    layer = block(0.5)
    x = np.tile(normal(1, 5, 8), (4000, 1, 1))
    y = np.asarray(layer(x, seed(3)))
    # Neither, the first, the second or both: four outcomes, each a quarter of the examples.
    _, counts = np.unique(np.round(y[:, 0, 0], 4), return_counts=True)
    assert len(counts) == 4
    assert np.all(np.abs(counts / 4000 - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000))


@pytest.mark.parametrize("place", ["attention", "output", "mlp"])
def test_every_rate_of_a_block_acts_and_only_with_a_seed(place: str) -> None:
    layer, x = block(0.0, **{place: 0.5}), normal(2, 5, 8)
    still = np.asarray(layer(x))
    np.testing.assert_array_equal(still, layer(x))
    assert np.any(np.asarray(layer(x, seed(1))) != still)
    np.testing.assert_array_equal(layer(x, seed(1)), layer(x, seed(1)))
    assert not layer.non_trainable_variables


def test_attention_dropout_keeps_the_expectation() -> None:
    layer = SelfAttention(
        2, 4, weights=WEIGHTS, probability_dropout=0.3, output_dropout=0.0, name="attention"
    )
    layer.build((None, 5, 8))
    randomize(layer)
    x = normal(1, 5, 8)
    draws = np.asarray(layer(np.tile(x, (20_000, 1, 1)), seed(2)))
    error = np.abs(draws.mean(axis=0) - np.asarray(layer(x))[0])
    assert np.all(error < 6 * draws.std(axis=0) / math.sqrt(20_000) + 1e-5)


@pytest.mark.parametrize(
    ("draw", "bound", "deviation"),
    [
        (Draw("glorot"), math.sqrt(6 / 400), math.sqrt(2 / 400)),
        (Draw("uniform", 0.05), 0.05, 0.05 / math.sqrt(3)),
        (Draw("normal", 0.2), None, 0.2),
        (Draw("lecun"), None, math.sqrt(1 / 100)),
    ],
)
def test_initial_distributions(draw: Draw, bound: float | None, deviation: float) -> None:
    values = np.asarray(draw.at("vit/a/kernel")((100, 300), "float32"))
    assert abs(values.std() / deviation - 1) < 0.02
    assert abs(values.mean()) < 5 * deviation / math.sqrt(values.size)
    if bound is not None:
        assert 0.99 * bound < np.abs(values).max() <= bound
