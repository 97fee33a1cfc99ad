"""Augmentation against NumPy's slices, scipy's interpolation and Keras's layers."""

import keras
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from pipeline.config import AugmentConfig
from pipeline.data.augment.augment import augment, crop, flip, rotate_and_zoom

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 12, 10, 3), np.uint8)


def smooth_images():
    noise = RNG.uniform(0, 255, (4, 24, 20, 3))
    return scipy.ndimage.gaussian_filter(noise, (0, 2, 2, 0)).astype(np.float32)


BATCHES = {
    "colors": IMAGES,
    "gray": RNG.integers(0, 256, (5, 7, 9, 1), np.uint8),
    "four channels": RNG.integers(0, 256, (5, 3, 2, 4), np.uint8),
    "floats": RNG.normal(size=(4, 6, 6, 3)).astype(np.float32),
    "224 px": RNG.integers(0, 256, (40, 224, 224, 3), np.uint8),
}


@pytest.mark.parametrize("images", BATCHES.values(), ids=BATCHES)
def test_flip_mirrors_the_chosen_images(images):
    for chosen in (RNG.random(len(images)) < 0.5, np.full(len(images), True)):
        expected = np.where(chosen[:, None, None, None], images[:, :, ::-1], images)
        np.testing.assert_array_equal(flip(tf.constant(images), tf.constant(chosen)), expected)


@pytest.mark.parametrize("padding", [1, 2, 16])
@pytest.mark.parametrize("images", BATCHES.values(), ids=BATCHES)
def test_crop_is_a_slice_of_the_padded_image(images, padding):
    count, height, width, _ = images.shape
    top, left = RNG.random((2, count), np.float32)
    top[:2], left[1:3] = 0.0, 0.999999
    cropped = crop(tf.constant(images), tf.constant(top), tf.constant(left), padding).numpy()
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for i in range(count):
        row, column = (int(place * (2 * padding + 1)) for place in (top[i], left[i]))
        expected = padded[i, row : row + height, column : column + width]
        np.testing.assert_array_equal(cropped[i], expected)


def test_rotation_and_zoom_agree_with_scipy():
    images = smooth_images()
    angle = np.array([0.0, 0.3, -0.5, 3.0], np.float32)
    height_zoom = np.array([0.8, 1.2, 1.0, 0.9], np.float32)
    width_zoom = np.array([1.1, 0.9, 1.2, 1.0], np.float32)
    ours = rotate_and_zoom(*map(tf.constant, (images, angle, height_zoom, width_zoom))).numpy()
    center = np.array([11.5, 9.5])  # (y, x)
    for i in range(4):
        cos, sin = np.cos(angle[i]), np.sin(angle[i])
        rotation = np.array([[cos, sin], [-sin, cos]])  # on (y, x)
        matrix = rotation @ np.diag([height_zoom[i], width_zoom[i]])
        for color in range(3):
            expected = scipy.ndimage.affine_transform(
                images[i, ..., color], matrix, center - matrix @ center, order=1, mode="reflect"
            )
            np.testing.assert_allclose(ours[i, ..., color], expected, atol=0.05)


def test_rotation_is_that_of_keras():
    images, turn = smooth_images(), 0.07
    layer = keras.layers.RandomRotation((turn, turn))
    one = tf.ones(4)
    ours = rotate_and_zoom(tf.constant(images), 2 * np.pi * turn * one, one, one)
    np.testing.assert_allclose(ours, layer(images, training=True), atol=0.02)


@pytest.mark.parametrize(("height", "width"), [(-0.2, 0.1), (0.2, -0.15)])
def test_zoom_is_that_of_keras(height, width):
    images = smooth_images()
    layer = keras.layers.RandomZoom((height, height), (width, width))
    one = tf.ones(4)
    ours = rotate_and_zoom(tf.constant(images), 0 * one, (1 + height) * one, (1 + width) * one)
    np.testing.assert_allclose(ours, layer(images, training=True), atol=0.02)


def test_augmentation_stays_within_what_the_recipe_allows():
    """The image of a linear ramp tells the transformation: a regression reads it back."""
    y, x = np.mgrid[:65, :65].astype(np.float32)
    ramp = np.stack([y, x, x], -1)[None].repeat(400, 0)
    index = tf.range(400, dtype=tf.int64)
    config = AugmentConfig(rotation=0.02, zoom=0.2)
    result = augment(tf.constant(ramp), config, 0, tf.zeros_like(index), index).numpy()
    inner = result[:, 28:37, 28:37]  # far from the reflected edges
    y_per_row = (inner[:, -1, :, 0] - inner[:, 0, :, 0]).mean(1) / 8  # height_zoom * cos
    x_per_column = (inner[:, :, -1, 1] - inner[:, :, 0, 1]).mean(1) / 8  # width_zoom * cos
    y_per_column = (inner[:, :, -1, 0] - inner[:, :, 0, 0]).mean(1) / 8  # width_zoom * sin
    angle = np.arctan2(y_per_column, x_per_column) / (2 * np.pi)
    assert np.abs(angle).max() <= 0.02
    assert angle.min() < -0.018
    assert angle.max() > 0.018
    for zoom in (y_per_row, x_per_column):
        assert 0.79 <= zoom.min() < 0.82
        assert 1.18 < zoom.max() <= 1.2001
    assert abs(np.corrcoef(y_per_row, x_per_column)[0, 1]) < 0.25  # 5 / sqrt(400)


def test_one_image_in_two_is_flipped_and_each_crop_is_as_likely():
    index = tf.range(5000, dtype=tf.int64)
    marker = np.zeros((5000, 3, 3, 3), np.uint8)
    marker[:, 1, 1] = 1
    config = AugmentConfig(crop_padding=1)
    moved = augment(tf.constant(marker), config, 0, tf.zeros_like(index), index).numpy()
    counts = moved[..., 0].sum(0)
    assert counts.sum() == 5000
    assert np.abs(counts - 5000 / 9).max() < 5 * np.sqrt(5000 / 9)
    marker[:, 1, 0] = 1
    turned = augment(tf.constant(marker), AugmentConfig(flip=True), 0, index * 0, index).numpy()
    assert abs(turned[:, 1, 2, 0].mean() - 0.5) < 5 * 0.5 / np.sqrt(5000)


def test_an_image_is_changed_alike_in_any_batch():
    config = AugmentConfig(flip=True, crop_padding=2, rotation=0.05, zoom=0.2)
    index = tf.constant([5, 9, 2, 7, 1, 0], tf.int64)
    epoch = tf.constant([0, 0, 1, 1, 2, 2], tf.int64)
    batch = augment(tf.constant(IMAGES), config, 3, epoch, index).numpy()
    for i in range(6):
        one = slice(i, i + 1)
        alone = augment(tf.constant(IMAGES[one]), config, 3, epoch[one], index[one]).numpy()
        np.testing.assert_array_equal(batch[one], alone)


def test_without_augmentation_nothing_changes():
    index = tf.range(6, dtype=tf.int64)
    same = augment(tf.constant(IMAGES), AugmentConfig(), 0, index, index)
    np.testing.assert_array_equal(same, IMAGES)
