"""Operations on single images are Pillow's, for any image, threshold and matrix."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.data.augment.pixel_operations import (
    FILL,
    autocontrast,
    equalize,
    posterize,
    solarize,
    transform,
)

RNG = np.random.default_rng(0)


def images(count):
    """uint8 [count, 20, 31, 3]; each image has its own range of levels, sometimes a narrow one."""
    low, high = np.sort(RNG.integers(0, 256, (2, count, 1, 1, 3)), axis=0)
    return RNG.integers(low, high + 1, (count, 20, 31, 3)).astype(np.uint8)


def by_pillow(change, image, *settings):
    return np.asarray(change(Image.fromarray(image), *settings))


@pytest.mark.parametrize(
    ("change", "pillows"), [(autocontrast, ImageOps.autocontrast), (equalize, ImageOps.equalize)]
)
def test_any_range_of_levels(change, pillows):
    for image in images(500):
        expected = by_pillow(pillows, image)
        change(image)
        np.testing.assert_array_equal(image, expected)


def test_solarize_inverts_from_any_threshold_on():
    for threshold, image in enumerate(images(257)):
        expected = by_pillow(ImageOps.solarize, image, threshold)
        solarize(image.reshape(-1), threshold)
        np.testing.assert_array_equal(image, expected)


def test_posterize_takes_any_number_of_bits():
    for taken, image in enumerate(images(8)):
        expected = by_pillow(ImageOps.posterize, image, 8 - taken)
        posterize(image.reshape(-1), taken)
        np.testing.assert_array_equal(image, expected)
        posterize(image.reshape(-1), 8)
        assert not image.any()


def moved(image, matrix):
    """The image after `transform` with an affine matrix as Pillow takes it."""
    a, b, c, d, e, f = matrix
    exact = np.array([a, b, c + a / 2 + b / 2, d, e, f + d / 2 + e / 2])
    result = image.copy()
    transform(result, np.empty_like(image), np.floor(exact * 65536 + 0.5).astype(np.int64))
    return result


@pytest.mark.parametrize("shape", [(40, 33, 25, 3), (40, 7, 64, 3), (10, 224, 224, 3)])
def test_any_affine_change_is_pillows(shape):
    matrices = np.eye(2, 3).ravel() + RNG.normal(0, 0.5, (shape[0], 6))
    matrices[:, [2, 5]] *= 20
    for image, matrix in zip(RNG.integers(0, 256, shape, np.uint8), matrices, strict=True):
        expected = Image.fromarray(image).transform(
            image.shape[1::-1], Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST,
            fillcolor=(FILL,) * 3,
        )  # fmt: skip
        np.testing.assert_array_equal(moved(image, matrix), expected)


@pytest.mark.parametrize("away", [[1, 0, 8, 0, 1, 0], [1, 0, 0, 0, 1, -8], [1, 0, 1e4, 0, 1, 1e4]])
def test_what_comes_from_outside_is_filled(away):
    image = RNG.integers(0, 99, (8, 8, 3), np.uint8)
    assert (moved(image, away) == FILL).all()
