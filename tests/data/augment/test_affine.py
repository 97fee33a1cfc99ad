"""Resampling against Pillow's, for any matrix."""

import numpy as np
import tensorflow as tf
from PIL import Image

from pipeline.data.augment.affine import resample

RNG = np.random.default_rng(0)


def by_pillow(image, matrix, fill):
    bands = [
        Image.fromarray(image[..., band]).transform(
            image.shape[1::-1], Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST,
            fillcolor=fill,
        )
        for band in range(image.shape[-1])
    ]  # fmt: skip
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def test_any_affine_change_is_pillows():
    for shape in ((40, 33, 25, 3), (40, 7, 64, 1), (10, 224, 224, 4)):
        images = RNG.integers(0, 256, shape, np.uint8)
        matrix = np.eye(2, 3).ravel() + RNG.normal(0, 0.5, (shape[0], 6))
        matrix[:, [2, 5]] *= 20
        ours = resample(tf.constant(images), tf.constant(matrix), 99)
        expected = [by_pillow(*pair, 99) for pair in zip(images, matrix, strict=True)]
        np.testing.assert_array_equal(ours, expected)


def test_what_comes_from_outside_is_filled():
    images = RNG.integers(0, 99, (3, 8, 8, 3), np.uint8)
    away = [[1, 0, 8, 0, 1, 0], [1, 0, 0, 0, 1, -8], [1, 0, 1e4, 0, 1, 1e4]]
    assert (resample(tf.constant(images), tf.constant(away, tf.float64), 99).numpy() == 99).all()
