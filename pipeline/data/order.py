"""The order of examples, and random numbers, as functions of seed, epoch and place.

Nothing here keeps a state: resuming is a subtraction, and an example looks the same on any number
of workers and threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.splitmix import Word, hash64

# `tf.random.experimental.index_shuffle` does 4 rounds, and the orders of neighbouring epochs then
# correlate by 0.68 at 45,000 examples; 16 rounds are at chance (tests/data/test_order.py).
SHUFFLE_ROUNDS = 16

# Keeps the keys of the order apart from the numbers `uniforms` draws, whose draws are small.
_ORDER_STREAM = 0x6F72_6465_72


def uniforms(seed: Word, epoch: Word, index: Word, draws: Sequence[int]) -> tf.Tensor:
    """Random numbers in [0, 1), each a multiple of 2**-24, so exact in float32.

    Args:
      seed: The run's seed.
      epoch: int64 [B].
      index: int64 [B], the example in its data set.
      draws: Which of the numbers of an example in an epoch, counted from 0; together, since a graph
        of one hash is made sooner than one of n.

    Returns:
      float32 [n, B].
    """
    # What is known beforehand comes first: it is hashed while the graph is built.
    hashed = hash64(seed, np.array(draws)[:, np.newaxis], epoch, index)
    bits = tf.bitwise.right_shift(hashed, tf.constant(40, tf.uint64))
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
