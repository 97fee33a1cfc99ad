"""SplitMix64: a hash of integers to 64 random bits, and a stream of random numbers from a key.

There is no state: number i is a function of the key and i.

References:
  Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014. For random
  numbers from hashed counters: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
  SC 2011.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_WORD = 2**64
_GOLDEN = 0x9E37_79B9_7F4A_7C15
_MULTIPLIER_1 = 0xBF58_476D_1CE4_E5B9
_MULTIPLIER_2 = 0x94D0_49BB_1331_11EB

Known: TypeAlias = "int | npt.NDArray[np.integer[Any]]"
Word: TypeAlias = "Known | tf.Tensor"


def hash64(*words: Word) -> tf.Tensor:
    """Computes an element-wise 64-bit hash of integers.

    Args:
      *words: Integers, integer arrays or integer tensors. They are broadcast; their order matters.

    Returns:
      uint64, in the common shape of the words.
    """
    # Hash the constant words in NumPy. This saves half of the operations in the graph.
    known, rest = np.array(0, np.uint64), list(words)
    while rest and not tf.is_tensor(rest[0]):
        known = _finalise_known(known ^ _known_uint64(rest.pop(0)))
    state = tf.constant(known)
    for word in rest:
        state = _finalise(tf.bitwise.bitwise_xor(state, _as_uint64(word)))
    return state


def stream64(key: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns the first numbers of the stream of a key.

    Args:
      key: uint64 scalar.
      count: How many numbers, int64 scalar.

    Returns:
      uint64 [count].
    """
    steps = tf.cast(tf.range(count), tf.uint64)
    return _finalise(key + steps * tf.constant(_GOLDEN, tf.uint64))


def _known_uint64(word: Known) -> npt.NDArray[np.uint64]:
    if isinstance(word, int):
        return np.array(word % _WORD, np.uint64)
    return word.astype(np.uint64)


def _finalise_known(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is intended
        state = state + np.uint64(_GOLDEN)
        state = (state ^ state >> np.uint64(30)) * np.uint64(_MULTIPLIER_1)
        state = (state ^ state >> np.uint64(27)) * np.uint64(_MULTIPLIER_2)
    return state ^ state >> np.uint64(31)


def _finalise(state: tf.Tensor) -> tf.Tensor:
    state += tf.constant(_GOLDEN, tf.uint64)
    state = _xor_shift(state, 30) * tf.constant(_MULTIPLIER_1, tf.uint64)
    state = _xor_shift(state, 27) * tf.constant(_MULTIPLIER_2, tf.uint64)
    return _xor_shift(state, 31)


def _xor_shift(state: tf.Tensor, bits: int) -> tf.Tensor:
    shifted = tf.bitwise.right_shift(state, tf.constant(bits, tf.uint64))
    return tf.bitwise.bitwise_xor(state, shifted)


def _as_uint64(word: Word) -> tf.Tensor:
    return tf.cast(word, tf.uint64) if tf.is_tensor(word) else tf.constant(_known_uint64(word))
