"""Roundings of the filter that resizes images, for its implementations in numba and TensorFlow.

Pixels have 8 bits, weights 12, and values between the two passes 12. So every sum of products fits
into the 24 bits of a float32 and is exact, in any order and on any processor.

numba's cache does not notice a change of this file. Change resample.py as well.
"""

# Weights are multiples of 1 / UNIT.
UNIT = 4096
# Values between the two passes are multiples of 1 / STEPS.
STEPS = 16
# Added before rounding down. It is slightly more than a half, so that a running sum of weights that
# is exactly between two multiples is rounded up, although its last digits depend on the
# implementation.
ROUNDING = 0.5 + 1e-6
