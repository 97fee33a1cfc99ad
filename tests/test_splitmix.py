"""The generator against its published function on Python's unbounded integers."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.splitmix import hash64, stream64

WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state):
    state = (state + GOLDEN) % WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % WORD
    return state ^ (state >> 31)


def test_the_hash_is_splitmix64_of_its_words():
    assert int(hash64(0)) == 0xE220A8397B1DCDAF  # the generator's first number from state 0
    words = (7, 123_456_789, 2**40)
    state = 0
    for word in words:
        state = splitmix64(state ^ word)
    assert int(hash64(*words)) == state
    tensors = [tf.constant([word], tf.int64) for word in words]
    assert hash64(*tensors).numpy().tolist() == [state]
    assert hash64(words[0], tensors[1], words[2]).numpy().tolist() == [state]
    several = hash64(words[0], np.array([[words[1]], [5]]), tensors[2])
    assert several.shape == (2, 1)
    assert several.numpy()[0].tolist() == [state]
    # Negative ones are taken modulo 2^64, known beforehand or not.
    assert int(hash64(-5, 3)) == int(hash64(tf.constant(-5, tf.int64), 3))
    assert int(hash64(-5, 3)) == splitmix64(splitmix64(2**64 - 5) ^ 3)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("key", [1_234_567, WORD - 3])
def test_the_stream_is_the_generators(key, compiled):
    draw = tf.function(stream64, jit_compile=compiled)
    found = draw(tf.constant(key, tf.uint64), tf.constant(1000, tf.int64)).numpy()
    assert found.dtype == np.uint64
    assert found.tolist() == [splitmix64((key + i * GOLDEN) % WORD) for i in range(1000)]
    if key == 1_234_567:  # the test vector that implementations share
        assert found[:3].tolist() == [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ]
