"""Exact sums of gradients: fixed-point integers, on a scale that all replicas know.

The sum of floating-point numbers depends on the order of additions, and so on the number of
workers. The sum of integers does not. The gradient g of a microbatch therefore becomes the integers
round(g * 2**e), which are summed and then multiplied by 2**-e. Each tensor has an exponent e.

The largest magnitude of a tensor, summed over all microbatches, bounds every partial sum. A step
whose bound does not fit into 30 bits, or has so few bits that rounding would be coarse, is computed
again with another exponent. The exponents of the next step follow from these bounds, so they are
the same on every number of workers.

The integers have 32 bits, so they need as many bytes as float32. The bound of a step is expected to
have 26 bits and may grow 16-fold; float32 has 24 bits. 64 bits would only make rounding finer.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from pipeline.model.backend import Tensor, fused

# A bound is the sum over microbatches of 2**e times the largest magnitude. It must be below
# 2**_MOST_BITS, so that no sum overflows in int32. After a step, exponents are chosen for bounds
# between 2**(_BITS - 1) and 2**_BITS, and a step with a bound below 2**_FEWEST_BITS is repeated.
_MOST_BITS, _BITS, _FEWEST_BITS = 30, 26, 16
# Bounds are integers with this many binary places, so that small magnitudes can be measured.
_PLACES = 16
# The largest contribution of a microbatch to a bound. 1,024 of them can be summed in int64.
_LARGEST = 2.0**52
# Exponents for which 2**e and 2**-e are normal float32 numbers, and the first one.
_EXPONENTS, _FIRST_EXPONENT = (-120, 120), 20
_INFINITY_BITS = 0x7F800000  # of float32; those of NaN are larger


class GradientScale:
    """The exponents of all gradients, and how often a step was computed again.

    Args:
      count: Number of gradients, T.
    """

    NAME = "gradient_scale"  # prefix of the names of its state

    def __init__(self, count: int) -> None:
        first = np.full(count, _FIRST_EXPONENT, np.int32)
        self.exponents = _state(first, "int32", f"{self.NAME}_exponents")
        self.repeated_steps = _state(0, "int64", f"{self.NAME}_repeated_steps")

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """The state by name."""
        return {v.name: v for v in (self.exponents, self.repeated_steps)}

    def adjust(self, bounds: tf.Tensor) -> tf.Tensor:
        """Sets the exponents from the bounds of a step. Call it outside replica context.

        Args:
          bounds: From `contribution`, summed over all microbatches of the step, int64 [T + 1].

        Returns:
          Whether the step must be computed again, a bool scalar.
        """
        exponents = self.exponents.value
        usable = is_exact(bounds, exponents)
        changed = next_exponents(bounds[:-1], exponents)
        finite = bounds[-1] == 0
        self.exponents.assign(tf.where(finite, changed, exponents))
        self.repeated_steps.assign_add(tf.cast(~usable, tf.int64))
        return ~usable


def add_integers(
    totals: Sequence[tf.Tensor], gradients: Sequence[tf.Tensor], exponents: tf.Tensor
) -> list[tf.Tensor]:
    """Adds a microbatch's gradients as integers.

    Call it inside `backend.fusing`, so that a large tensor passes through memory once.

    Args:
      totals: Sums so far, T tensors of the gradients' shapes, int32 or int64.
      gradients: T tensors, float32.
      exponents: int32 [T].
    """
    powers = tf.unstack(power_of_two(exponents))
    return [_add_rounded(*each) for each in zip(totals, gradients, powers, strict=True)]


@fused
def _add_rounded(total: Tensor, gradient: Tensor, power: Tensor) -> Tensor:
    return total + tf.cast(tf.round(gradient * power), total.dtype)


def contribution(gradients: Sequence[tf.Tensor], exponents: tf.Tensor) -> tf.Tensor:
    """A microbatch's contribution to the bounds: int64 [T + 1].

    Each of the T values is 2**(e + 16) times the largest magnitude of a gradient, rounded up. The
    last value is the number of gradients with a value that is not finite.

    Args:
      gradients: T tensors, float32.
      exponents: int32 [T].
    """
    # The bits of non-negative float32 numbers have the order of the numbers, and those of NaN are
    # the largest. A maximum of floats could ignore a NaN.
    bits = [tf.reduce_max(tf.bitcast(g, tf.int32) & np.int32(0x7FFFFFFF)) for g in gradients]
    largest = tf.stack(bits)  # [T]
    finite = largest < _INFINITY_BITS
    magnitudes = tf.bitcast(tf.where(finite, largest, 0), tf.float32)
    scaled = tf.cast(magnitudes, tf.float64) * power_of_two(exponents + _PLACES, tf.float64)
    bounded = tf.cast(tf.minimum(tf.math.ceil(scaled), _LARGEST), tf.int64)
    return tf.concat([bounded, [tf.reduce_sum(tf.cast(~finite, tf.int64))]], axis=0)


def is_exact(bounds: tf.Tensor, exponents: tf.Tensor) -> tf.Tensor:
    """Whether the integers of a step are usable, a bool scalar.

    They are if no sum can have overflowed and none is coarse. They are also if a gradient was not
    finite, because the step is skipped in any case.

    Args:
      bounds: int64 [T + 1].
      exponents: int32 [T].
    """
    sizes = bounds[:-1]
    fits = sizes < 2 ** (_MOST_BITS + _PLACES)
    coarse = (sizes > 0) & (sizes < 2 ** (_FEWEST_BITS + _PLACES)) & (exponents < _EXPONENTS[1])
    return (bounds[-1] > 0) | tf.reduce_all(fits & ~coarse)


def next_exponents(sizes: tf.Tensor, exponents: tf.Tensor) -> tf.Tensor:
    """The exponents for bounds like those of this step, int32 [T].

    Args:
      sizes: Bounds without the last value, int64 [T]. An exponent stays if the gradient is zero.
      exponents: Those of the step, int32 [T].
    """
    change = _BITS + _PLACES - bit_length(sizes)
    changed = tf.clip_by_value(exponents + change, *_EXPONENTS)
    return tf.where(sizes > 0, changed, exponents)


def to_gradients(totals: Sequence[tf.Tensor], exponents: tf.Tensor) -> list[tf.Tensor]:
    """Converts T sums of integers back to float32 gradients."""
    powers = tf.unstack(power_of_two(-exponents))
    return [tf.cast(total, tf.float32) * power for total, power in zip(totals, powers, strict=True)]


def bit_length(numbers: tf.Tensor) -> tf.Tensor:
    """Number of bits of non-negative int64 numbers, int32; 0 for 0."""
    powers = tf.constant([2**k for k in range(63)], tf.int64)
    return tf.reduce_sum(tf.cast(numbers[..., None] >= powers, tf.int32), axis=-1)


def power_of_two(exponents: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """2**exponents exactly, for int32 exponents of normal numbers; `tf.pow` may round."""
    if dtype == tf.float64:
        return tf.bitcast(tf.bitwise.left_shift(tf.cast(exponents, tf.int64) + 1023, 52), dtype)
    return tf.bitcast(tf.bitwise.left_shift(exponents + 127, 23), dtype)


def _state(value: object, dtype: str, name: str) -> keras.Variable:
    return keras.Variable(
        value, dtype=dtype, trainable=False, name=name, aggregation="only_first_replica"
    )
