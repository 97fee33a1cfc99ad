"""The compiled normalization has the bits of TensorFlow's."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data.normalize import normalize_batch
from pipeline.data.preprocess import normalize, row_factors

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (3, 5, 7, 3), (70, 64, 64, 3)])
def test_it_has_the_bits_of_tensorflow(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    result = normalize_batch(images, *row_factors(shape[2], MEAN, STD))
    expected = normalize(tf.constant(images), MEAN, STD).numpy()
    assert result.dtype == np.float32
    assert np.array_equal(result, expected)
    by_definition = (images / 255 - MEAN) / STD
    assert np.abs(result - by_definition).max() < 1e-6


def test_tensorflow_need_not_copy_it():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    for _ in range(5):
        assert normalize_batch(images, *row_factors(8, MEAN, STD)).ctypes.data % 64 == 0
