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
    """The triangle filter as a matrix of integers [size, length], each row with the sum 65535."""
    scale = length / size
    reach = max(scale, 1.0) if antialias else 1.0
    centers = (np.arange(size) + 0.5) * scale - 0.5
    values = np.maximum(0, 1 - np.abs(np.arange(length) - centers[:, None]) / reach)
    shares = np.cumsum(values, axis=1) / values.sum(1, keepdims=True)
    rounded = np.floor(np.pad(shares, ((0, 0), (1, 0))) * 65535 + 0.500001).astype(np.int64)
    return np.diff(rounded, axis=1)


def in_integers(image, box, size, antialias):
    top, left, height, width = box
    part = image[top : top + height, left : left + width].astype(np.int64)
    rows, lost_rows = one_pass(part * 256, weights(height, size, antialias), height, antialias)
    sums, lost = one_pass(rows.swapaxes(0, 1), weights(width, size, antialias), width, antialias)
    return ((sums.swapaxes(0, 1) + lost_rows + lost + 128) // 256).astype(np.uint8)


def one_pass(values, matrix, length, antialias):
    """Sums over the first axis: of up to 16 products, each is rounded down; else only the sum."""
    reach = max(length / len(matrix), 1.0) if antialias else 1.0
    taps = -(-(int(2 * reach) + 2) // 4) * 4
    products = matrix[:, :, None, None] * values
    if taps > 16:
        return (products.sum(1) + 32768) // 65536, 0
    return (products // 65536).sum(1), taps // 2


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [1, 16, 33, 100])
@pytest.mark.parametrize("box", BOXES)
def test_it_is_the_same_sum_in_integers(image, box, size, antialias):
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
    assert (resized(image.swapaxes(0, 1).copy(), (0, 0, 37, 4000), 9) == level).all()


@pytest.mark.parametrize("width", [1, 2, 5, 15, 16, 17, 21, 22])
def test_narrow_images_are_read_to_their_last_column(width):
    image = np.random.default_rng(width).integers(0, 256, (40, width, 3), np.uint8)
    for box in ((0, 0, 40, width), (39, width - 1, 1, 1), (7, 0, 33, width)):
        assert np.array_equal(resized(image, box, 24), in_integers(image, box, 24, True))


@pytest.mark.parametrize("box", [(0, 0, 91, 70), (0, 1, 90, 70), (-1, 0, 5, 5), (0, 0, 0, 5)])
def test_a_box_must_be_inside(image, box):
    with pytest.raises(ValueError, match="is not inside"):
        resized(image, box, 8)
