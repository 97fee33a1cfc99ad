"""SplitMix64: integers hashed into 64 random bits, and a stream of them from one key.

Nothing keeps a state: number i is a function of the key and i.

References:
  Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014. Counters
  hashed into random numbers: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from typing import TypeAlias

import tensorflow as tf

_WORD = 2**64
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_MULTIPLIER_1 = 0xBF58_476D_1CE4_E5B9
_MULTIPLIER_2 = 0x94D0_49BB_1331_11EB

Word: TypeAlias = "int | tf.Tensor"


def hash64(*words: Word) -> tf.Tensor:
    """A 64-bit hash of integers, element by element.

    Args:
      *words: Integers or integer tensors, broadcast against one another; their order matters.

    Returns:
      uint64, in the words' common shape.
    """
    # What is known while the graph is built needs no part of it: that is half of its operations.
    state: Word = 0
    for word in words:
        if isinstance(state, int) and isinstance(word, int):
            state = _finalise_integer(state ^ word % _WORD)
        else:
            state = _finalise(tf.bitwise.bitwise_xor(_as_uint64(state), _as_uint64(word)))
    return _as_uint64(state)


def stream64(key: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The generator's first numbers.

    Args:
      key: Where it starts, uint64 scalar.
      count: Of numbers, int64 scalar.

    Returns:
      uint64 [count].
    """
    steps = tf.cast(tf.range(count), tf.uint64)
    return _finalise(key + steps * tf.constant(_GOLDEN, tf.uint64))


def _finalise_integer(state: int) -> int:
    state = (state + _GOLDEN) % _WORD
    state = (state ^ state >> 30) * _MULTIPLIER_1 % _WORD
    state = (state ^ state >> 27) * _MULTIPLIER_2 % _WORD
    return state ^ state >> 31


def _finalise(state: tf.Tensor) -> tf.Tensor:
    state += tf.constant(_GOLDEN, tf.uint64)
    state = _xor_shift(state, 30) * tf.constant(_MULTIPLIER_1, tf.uint64)
    state = _xor_shift(state, 27) * tf.constant(_MULTIPLIER_2, tf.uint64)
    return _xor_shift(state, 31)


def _xor_shift(state: tf.Tensor, bits: int) -> tf.Tensor:
    shifted = tf.bitwise.right_shift(state, tf.constant(bits, tf.uint64))
    return tf.bitwise.bitwise_xor(state, shifted)


def _as_uint64(word: Word) -> tf.Tensor:
    if isinstance(word, int):
        return tf.constant(word % _WORD, tf.uint64)
    return tf.cast(word, tf.uint64)
