"""Roundings of the filter that resizes images, for its implementations in numba and TensorFlow.

All numbers are integers, so that the result has the same bits on every processor. In each pass,
the sum of pixels times weights is divided by UNIT + 1. With few weights, each product is divided
and rounded down, for which processors have a fast instruction. With many weights, the sum is
divided and rounded.

numba's cache does not notice a change of this file. Change resample.py as well.
"""

from __future__ import annotations

# Pixels are multiples of 1 / LEVEL.
LEVEL = 256
# The weights of a result are integers with this sum.
UNIT = 65_535
# Added before rounding down. It is slightly more than a half, so that a running sum of weights that
# is exactly between two integers is rounded up, although its last digits depend on the
# implementation.
ROUNDING = 0.5 + 1e-6
# The number of weights of a result is a multiple of this; some may be 0.
TAPS = 4
# This number of weights is few. Half of their number is what the sum of their products lacks on
# average, and is added before the result is rounded.
FEW = 16
