"""Sums of gradients as integers, against Python's exact fractions and integers."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from pipeline.model.backend import fusing
from pipeline.training.fixed_point import (
    GradientScale,
    add_integers,
    bit_length,
    contribution,
    is_exact,
    next_exponents,
    power_of_two,
    to_gradients,
)

SHAPES = [tf.TensorShape([3, 5]), tf.TensorShape([7]), tf.TensorShape([])]


def draw(microbatches, scales=(1.0, 1e-6, 300.0)):
    """Gradients of some microbatches, float32, of several magnitudes."""
    generator = np.random.default_rng(0)
    return [
        [
            (generator.normal(size=shape) * scale).astype(np.float32)
            for shape, scale in zip(SHAPES, scales, strict=True)
        ]
        for _ in range(microbatches)
    ]


def settle(batch, scale, times=5):
    """Adjusts the exponents to a batch; returns how often it had to be computed again."""
    again = 0
    for _ in range(times):
        bounds = sum(contribution(one, scale.exponents.value) for one in batch)
        again += bool(scale.adjust(bounds))
    return again


def summed(batch, exponents, dtype=tf.int32):
    totals = [tf.zeros(shape, dtype) for shape in SHAPES]
    for one in batch:
        totals = add_integers(totals, one, exponents)
    return totals


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


@pytest.mark.parametrize("exponent", [-120, -31, -1, 0, 1, 20, 100])
def test_powers_of_two_are_exact(exponent):
    assert Fraction(float(power_of_two(tf.constant([exponent]))[0])) == Fraction(2) ** exponent
    assert power_of_two(tf.constant([exponent + 16]), tf.float64)[0] == 2.0 ** (exponent + 16)


def test_bit_lengths_are_those_of_python():
    numbers = [0, 1, 2, 3, 4, 255, 256, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**62 - 1, 2**62]
    found = bit_length(tf.constant(numbers, tf.int64)).numpy().tolist()
    assert found == [number.bit_length() for number in numbers]


def test_the_sum_is_that_of_exact_fractions_to_half_a_unit_a_microbatch():
    batch, scale = draw(8), GradientScale(len(SHAPES))
    assert settle(batch, scale) == 1  # from the first exponents
    exponents = scale.exponents.value
    found = to_gradients(summed(batch, exponents), exponents)
    for place, exponent in enumerate(exponents.numpy().tolist()):
        largest = sum(np.abs(one[place]).max() for one in batch)
        assert 2.0**-exponent <= 2.0**-24 * largest  # as fine as float32
        columns = zip(*(np.ravel(one[place]).tolist() for one in batch), strict=True)
        for got, column in zip(np.ravel(found[place]).tolist(), columns, strict=True):
            exact = sum(map(Fraction, column))
            # Half a unit for each microbatch, and the rounding of the result to float32.
            allowed = 8 * Fraction(1, 2) * Fraction(2) ** -exponent + abs(exact) / 2**24
            assert abs(Fraction(got) - exact) <= allowed


def test_the_sum_does_not_depend_on_order_grouping_or_integer_type():
    batch, scale = draw(8), GradientScale(len(SHAPES))
    settle(batch, scale)
    exponents = scale.exponents.value
    whole = flat(summed(batch, exponents))
    generator = np.random.default_rng(1)
    for _ in range(5):
        shuffled = [batch[i] for i in generator.permutation(8)]
        np.testing.assert_array_equal(flat(summed(shuffled, exponents)), whole)
        cut = generator.integers(1, 8)
        groups = flat(summed(shuffled[:cut], exponents)) + flat(summed(shuffled[cut:], exponents))
        np.testing.assert_array_equal(groups, whole)
    np.testing.assert_array_equal(flat(summed(batch, exponents, tf.int64)), whole)
    # In float32, the same shuffles differ, or this test could not fail.
    floats = {sum(batch[i][0] for i in generator.permutation(8)).tobytes() for _ in range(5)}
    assert len(floats) > 1


def test_compiled_integers_are_those_of_operations():
    gradients = [np.random.default_rng(0).normal(size=[512, 600]).astype(np.float32)]
    totals, exponents = [tf.zeros([512, 600], tf.int32)], tf.constant([20])
    compiled = tf.function(fusing()(add_integers))(totals, gradients, exponents)
    np.testing.assert_array_equal(*compiled, *add_integers(totals, gradients, exponents))


@pytest.mark.parametrize("growth", [1e3, 1e9, 1e30, 1e-4, 1e-12, 1e-30])
def test_gradients_that_change_suddenly_are_computed_again_until_they_fit(growth):
    batch, scale = draw(8), GradientScale(len(SHAPES))
    settle(batch, scale)
    changed = draw(8, scales=(growth, 1e-6, 300.0))
    bounds = sum(contribution(one, scale.exponents.value) for one in changed)
    assert not is_exact(bounds, scale.exponents.value)
    before = scale.repeated_steps.numpy()
    again = settle(changed, scale, times=20)
    assert 1 <= again <= 15
    assert scale.repeated_steps.numpy() == before + again
    exponents = scale.exponents.value
    found = to_gradients(summed(changed, exponents), exponents)
    exact = sum(one[0].astype(np.float64) for one in changed)
    np.testing.assert_allclose(found[0], exact, atol=1e-6 * np.abs(exact).max())


def test_small_changes_need_no_second_computation():
    batch, scale = draw(8), GradientScale(len(SHAPES))
    settle(batch, scale)
    for growth in (1, 8, 0.1, 0.8, 0.005):
        assert settle(draw(8, scales=(growth, 1e-6, 300.0)), scale, times=1) == 0


def test_a_gradient_of_zeros_keeps_its_exponent_and_sums_to_zero():
    batch, scale = draw(8, scales=(0.0, 1.0, 1.0)), GradientScale(len(SHAPES))
    settle(batch, scale)
    assert scale.exponents.numpy()[0] == GradientScale(len(SHAPES)).exponents.numpy()[0]
    found = to_gradients(summed(batch, scale.exponents.value), scale.exponents.value)
    np.testing.assert_array_equal(found[0], 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -np.nan])
def test_values_that_are_not_finite_are_counted_and_change_no_exponent(value):
    batch, scale = draw(8), GradientScale(len(SHAPES))
    settle(batch, scale)
    before = scale.exponents.numpy()
    batch[3][0][1, 2] = value
    bounds = sum(contribution(one, scale.exponents.value) for one in batch)
    assert bounds[-1] == 1
    assert not scale.adjust(bounds)  # the step is skipped, not repeated
    np.testing.assert_array_equal(scale.exponents.numpy(), before)


@pytest.mark.parametrize("largest", [3.4e38, 1.2e-38])
def test_1024_microbatches_of_the_largest_and_smallest_numbers_fit(largest):
    gradients = [np.full(shape, largest, np.float32) for shape in SHAPES]
    exponents = GradientScale(len(SHAPES)).exponents.value
    for _ in range(30):
        bounds = 1024 * contribution(gradients, exponents)
        assert (bounds.numpy()[:-1] > 0).all()
        if is_exact(bounds, exponents):
            break
        exponents = next_exponents(bounds[:-1], exponents)
    else:
        pytest.fail("the exponents do not settle")
