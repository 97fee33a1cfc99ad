"""The order of examples, and random numbers, as functions of seed, epoch and place.

Nothing here keeps a state: resuming is a subtraction, and an example looks the same on any number
of workers and threads.

References:
  The finaliser is SplitMix64's: Steele, Lea and Flood, Fast Splittable Pseudorandom Number
  Generators, OOPSLA 2014. Counters hashed into random numbers: Salmon et al., Parallel Random
  Numbers: As Easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

from typing import TypeAlias

import tensorflow as tf

# `tf.random.experimental.index_shuffle` does 4 rounds, and the orders of neighbouring epochs then
# correlate by 0.68 at 45,000 examples; 16 rounds are at chance (tests/data/test_order.py).
SHUFFLE_ROUNDS = 16

# Keeps the keys of the order apart from the numbers `uniform` draws, whose draw is small.
_ORDER_STREAM = 0x6F72_6465_72

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


def uniform(seed: Word, epoch: Word, index: Word, draw: int) -> tf.Tensor:
    """Random numbers in [0, 1), each a multiple of 2**-24, so exact in float32.

    Args:
      seed: The run's seed.
      epoch: int64 [B].
      index: int64 [B], the example in its data set.
      draw: Which of the numbers of this example in this epoch, counted from 0.

    Returns:
      float32 [B].
    """
    # What is known beforehand comes first: it is hashed while the graph is built.
    bits = tf.bitwise.right_shift(hash64(seed, draw, epoch, index), tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(bits, tf.int32), tf.float32) * 2.0**-24


def positions_to_examples(
    positions: tf.Tensor, num_examples: int, seed: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which example stands at a position of the endless training order.

    Position p lies in epoch p // N, and each epoch is a permutation of its own of the N examples.
    A batch may reach across the end of an epoch.

    Args:
      positions: int64 [B].
      num_examples: N.
      seed: The run's seed.

    Returns:
      epoch int64 [B], index int64 [B].
    """
    epoch = positions // num_examples
    place = positions % num_examples
    key = hash64(seed, _ORDER_STREAM, epoch[:, tf.newaxis], tf.range(3)[tf.newaxis, :])  # [B, 3]
    key = tf.bitwise.right_shift(key, tf.constant(32, tf.uint64))  # the op takes 32 bits of each
    last = tf.fill(tf.shape(place), tf.constant(num_examples - 1, tf.int64))
    index = tf.raw_ops.RandomIndexShuffle(
        index=place, seed=tf.cast(key, tf.int64), max_index=last, rounds=SHUFFLE_ROUNDS
    )
    return epoch, index


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
