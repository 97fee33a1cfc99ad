"""The compiled filter, compared with the same sums in integers, Pillow and closed forms."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.data.preprocess import resize_box
from pipeline.data.resample import resample

# Boxes in an image of 90 x 70 pixels: enlarged, reduced, both, a single pixel.
BOXES = [(0, 0, 90, 70), (3, 5, 40, 60), (10, 20, 7, 9), (0, 0, 90, 8), (89, 69, 1, 1)]


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)


def resized(image, box, size, antialias=True):
    result = np.empty((size, size, 3), np.uint8)
    resample(image, box, result, antialias)
    return result


def weights(length, size, antialias):
    """The triangle filter as a matrix of integers [size, length], each row with the sum 4096."""
    scale = length / size
    reach = max(scale, 1.0) if antialias else 1.0
    centers = (np.arange(size) + 0.5) * scale - 0.5
    values = np.maximum(0, 1 - np.abs(np.arange(length) - centers[:, None]) / reach)
    shares = np.cumsum(values, axis=1) / values.sum(1, keepdims=True)
    rounded = np.floor(np.pad(shares, ((0, 0), (1, 0))) * 4096 + 0.500001).astype(np.int64)
    return np.diff(rounded, axis=1)


def in_integers(image, box, size, antialias):
    top, left, height, width = box
    part = image[top : top + height, left : left + width].astype(np.int64)
    rows = np.einsum("sh,hwc->swc", weights(height, size, antialias), part)
    rows = (rows * 16 + 2048) // 4096
    sums = np.einsum("sw,hwc->hsc", weights(width, size, antialias), rows)
    return ((sums * 2 + 65536) // 131072).astype(np.uint8)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [1, 16, 33, 100])
@pytest.mark.parametrize("box", BOXES)
def test_the_sums_are_exact(image, box, size, antialias):
    result = resized(image, box, size, antialias)
    assert np.array_equal(result, in_integers(image, box, size, antialias))
    by_tensorflow = resize_box(tf.constant(image), tf.constant(box), size, "squash", antialias)
    assert np.array_equal(result, by_tensorflow.numpy())


@pytest.mark.parametrize("size", [16, 33, 100])
@pytest.mark.parametrize("box", BOXES)
def test_it_is_pillows_bilinear_filter(image, box, size):
    top, left, height, width = box
    part = Image.fromarray(image[top : top + height, left : left + width])
    expected = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resized(image, box, size) - expected).max() <= 1


def test_a_box_of_the_size_of_the_result_is_copied(image):
    assert np.array_equal(resized(image, (10, 20, 50, 50), 50), image[10:60, 20:70])


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_a_single_color_stays(level):
    image = np.full((4000, 37, 3), level, np.uint8)
    assert (resized(image, (0, 0, 4000, 37), 16) == level).all()


@pytest.mark.parametrize("box", [(0, 0, 91, 70), (0, 1, 90, 70), (-1, 0, 5, 5), (0, 0, 0, 5)])
def test_a_box_must_be_inside(image, box):
    with pytest.raises(ValueError, match="is not inside"):
        resized(image, box, 8)
