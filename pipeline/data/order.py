"""The order of examples, and random numbers, as functions of seed, epoch and position.

The functions have no state. A run can therefore resume at any step, and the augmentation of an
example does not depend on the number of workers or threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.splitmix import Word, hash64

# `tf.random.experimental.index_shuffle` uses 4 rounds. Then the orders of neighbouring epochs
# correlate by 0.68 for 45,000 examples. With 16 rounds the correlation is at chance level
# (tests/data/test_order.py).
SHUFFLE_ROUNDS = 16

# Separates the keys of the order from the random numbers of `uniforms`, whose draws are small.
_ORDER_STREAM = 0x6F72_6465_72


def uniforms(seed: Word, epoch: Word, index: Word, draws: Sequence[int]) -> tf.Tensor:
    """Returns random numbers in [0, 1). Each is a multiple of 2**-24, so it is exact in float32.

    Args:
      seed: The run's seed.
      epoch: int64 [B].
      index: int64 [B], index of the example in its data set.
      draws: Indices, from 0, into the random numbers of an example in an epoch. Computing all in
        one call makes a smaller graph.

    Returns:
      float32 [n, B].
    """
    # Constants come first, because they are hashed while the graph is built.
    hashed = hash64(seed, np.array(draws)[:, np.newaxis], epoch, index)
    bits = tf.bitwise.right_shift(hashed, tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(bits, tf.int32), tf.float32) * 2.0**-24


def positions_to_examples(
    positions: tf.Tensor, num_examples: int, seed: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps positions in the infinite training order to examples.

    Position p is in epoch p // N. Each epoch is a different permutation of the N examples. A batch
    may contain examples of two epochs.

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
    key = tf.bitwise.right_shift(key, tf.constant(32, tf.uint64))  # the op uses 32 bits of each
    last = tf.fill(tf.shape(place), tf.constant(num_examples - 1, tf.int64))
    index = tf.raw_ops.RandomIndexShuffle(
        index=place, seed=tf.cast(key, tf.int64), max_index=last, rounds=SHUFFLE_ROUNDS
    )
    return epoch, index
