"""The CPU implementations of the backend against plain operations."""

from contextlib import nullcontext

import numpy as np
import pytest
import tensorflow as tf

from pipeline.model import backend
from pipeline.model.backend import affine, fused, fusing, random_uint16, softmax
from tests.test_splitmix import GOLDEN, WORD, splitmix64

SEED = tf.constant([3, -4], tf.int32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def compiles(function):
    """Whether the graph contains a function compiled by XLA."""
    graph = tf.function(function).get_concrete_function().graph.as_graph_def(add_shapes=False)
    functions = graph.library.function
    return any("_XlaMustCompile" in f.attr and f.attr["_XlaMustCompile"].b for f in functions)


def test_large_draws_are_splitmix64_of_the_seed():
    shape = (3, 11, 10_001)  # odd: the last number's bits are not all needed
    with fusing():
        words = random_uint16(shape, SEED).numpy()
    assert words.dtype == np.uint16
    assert words.shape == shape
    key = splitmix64(splitmix64(3) ^ -4 % WORD)
    first = [splitmix64((key + i * GOLDEN) % WORD) for i in range(100)]
    expected = [number >> 16 * part & 0xFFFF for number in first for part in range(4)]
    assert words.ravel()[:400].tolist() == expected


@pytest.mark.parametrize("shape", [(1000, 1000), (100, 100)])
def test_words_are_uniform_and_independent_of_other_seeds(shape):
    with fusing():
        one, other = (random_uint16(shape, tf.constant([1, s])).numpy().ravel() for s in (1, 2))
    count = len(one)
    expected = count / 64
    counts = np.bincount(one >> 10, minlength=64)
    assert np.sum((counts - expected) ** 2) / expected < 63 + 5 * np.sqrt(2 * 63)
    for a, b in ((one, other), (one[1:], one[:-1]), (one[4:], one[:-4])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(count)


def test_only_large_chains_inside_fusing_are_compiled():
    double = fused(lambda x: x * 2 + 1)
    small, large = tf.zeros([100]), tf.zeros([2**18])
    assert not compiles(lambda: double(large))
    with fusing():
        assert compiles(lambda: double(large))
        assert not compiles(lambda: double(small))
    assert not compiles(lambda: double(large))


def test_outside_fusing_bias_and_softmax_are_plain_operations(monkeypatch):
    # As many rows as outputs: with fewer the kernel would be the larger.
    x, kernel, bias = (tf.zeros(shape, tf.bfloat16) for shape in ((5, 4), (4, 5), (5,)))

    def kinds(x=x):
        graph = tf.function(lambda: softmax(affine(x, kernel, bias))).get_concrete_function().graph
        return {op.type for op in graph.get_operations()} & {"BiasAdd", "Cast"}

    monkeypatch.setattr(backend, "_softmax_is_in_float32", lambda dtype: True)
    assert kinds() == {"BiasAdd", "Cast"}
    with fusing():
        assert kinds() == set()
        assert kinds(x[:4]) == {"BiasAdd"}
        monkeypatch.setattr(backend, "_softmax_is_in_float32", lambda dtype: False)
        assert kinds() == {"Cast"}


def test_a_batch_of_unknown_size_counts_as_large():
    unknown = tf.TensorSpec([None, 4])
    with fusing():
        assert backend._compiles(unknown.shape)
    assert not backend._compiles(unknown.shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rows", [5, 300])  # fewer than inputs, and more
def test_affine_and_its_gradients_are_those_of_the_formula(rows, dtype):
    x, kernel, bias, upstream = normal(rows, 12), normal(12, 7, seed=1), normal(7), normal(rows, 7)
    inputs = [tf.cast(t, dtype) for t in (x, kernel, bias)]
    with tf.GradientTape() as tape, fusing():
        tape.watch(inputs)
        y = affine(*inputs)
    found = [y, *tape.gradient(y, inputs, tf.cast(upstream, dtype))]
    x, kernel, bias, upstream = (
        np.asarray(tf.cast(t, "float64")) for t in (*inputs, tf.cast(upstream, dtype))
    )
    expected = [x @ kernel + bias, upstream @ kernel.T, x.T @ upstream, upstream.sum(0)]
    near = {"float32": 1e-5, "bfloat16": 8e-3, "float16": 1e-3}[dtype]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(tf.cast(a, "float64"), b, rtol=near, atol=near * np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_softmax_is_rounded_once(dtype):
    scores = tf.cast(normal(50, 1000), dtype)
    exact = np.exp(np.asarray(tf.cast(scores, "float64")))
    exact /= exact.sum(-1, keepdims=True)
    near = {"float32": 1e-5, "bfloat16": 2**-8, "float16": 2**-10}[dtype]
    for inside in (nullcontext(), fusing()):
        with inside:
            found = tf.cast(softmax(scores), "float64")
        np.testing.assert_allclose(found, exact, rtol=near, atol=1e-7)


def test_a_softmax_that_sums_in_16_bits_is_detected(monkeypatch):
    def adding_in_16_bits(x):
        shares = tf.exp(x)
        return shares / tf.cast(tf.cumsum(shares, axis=-1)[..., -1:], x.dtype)

    usual = tf.nn.softmax
    wrong = lambda x: usual(x) if x.dtype == tf.float32 else adding_in_16_bits(x)  # noqa: E731
    monkeypatch.setattr(tf.nn, "softmax", wrong)
    assert not backend._softmax_is_in_float32.__wrapped__(tf.bfloat16)
