"""The measured peak: how large the products are, and what is computed from their times."""

import itertools

import pytest
import tensorflow as tf

from pipeline.training import step_statistics
from pipeline.training.step_statistics import measure_peak

SIDES = (4, 8, 16)


class Clock:
    """A clock by which products of each size take given times, the fastest of them last."""

    def __init__(self, *best_s):
        repeats = step_statistics._PEAK_REPEATS
        # What compiles first is faster here than any product, so that it shows if it counts.
        took = [[best / 100, *[3 * best] * (repeats - 1), best] for best in best_s]
        self._readings = itertools.chain.from_iterable((0.0, s) for s in itertools.chain(*took))

    def perf_counter(self):
        return next(self._readings)


@pytest.mark.parametrize(
    ("best_s", "side"),
    [((0.02,), 4), ((0.005, 0.01), 8), ((1e-4, 1e-3, 2e-3), 16)],
    ids=["the first is long enough", "the second is", "none is"],
)
@pytest.mark.parametrize("products", [1, 3])
def test_the_peak_is_that_of_the_first_size_that_takes_long_enough(
    monkeypatch, best_s, side, products
):
    monkeypatch.setattr(step_statistics, "_PEAK_SIDES", SIDES)
    monkeypatch.setattr(step_statistics, "time", Clock(*best_s))
    # A product of two matrices: a multiplication and an addition for each of side^3 terms.
    expected = products * 2 * side**3 / best_s[-1]
    assert measure_peak("float32", products) == pytest.approx(expected)


@pytest.mark.parametrize(("failing", "expected"), [(4, None), (8, 2 * 4**3 / 1e-3)])
def test_matrices_without_memory_are_left_out(monkeypatch, failing, expected):
    def ones(shape, dtype):
        if shape[0] == failing:
            raise tf.errors.ResourceExhaustedError(None, None, "no memory")
        return tf.zeros(shape, dtype)

    monkeypatch.setattr(step_statistics, "_PEAK_SIDES", SIDES)
    monkeypatch.setattr(step_statistics, "time", Clock(1e-3))
    monkeypatch.setattr(step_statistics.tf, "ones", ones)
    assert measure_peak("float32") == (None if expected is None else pytest.approx(expected))
