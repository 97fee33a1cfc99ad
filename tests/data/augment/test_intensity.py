"""Intensity transformations against Pillow, for every threshold and number of bits."""

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from pipeline.data.augment.intensity import autocontrast, equalize, posterize, solarize

RNG = np.random.default_rng(0)


def images(count):
    """uint8 [count, 20, 31, 3]; each image has its own range of levels, sometimes a narrow one."""
    low, high = np.sort(RNG.integers(0, 256, (2, count, 1, 1, 3)), axis=0)
    return RNG.integers(low, high + 1, (count, 20, 31, 3)).astype(np.uint8)


def by_pillow(change, batch, *settings):
    values = zip(batch, *settings, strict=True)
    return [np.asarray(change(Image.fromarray(image), *rest)) for image, *rest in values]


def test_solarize_inverts_from_any_threshold_on():
    threshold = np.arange(257, dtype=np.int32)
    batch = images(257)
    ours = solarize(tf.constant(batch), tf.constant(threshold))
    np.testing.assert_array_equal(ours, by_pillow(ImageOps.solarize, batch, threshold))


def test_posterize_takes_any_number_of_bits():
    taken = np.arange(8, dtype=np.int32)
    batch = images(8)
    ours = posterize(tf.constant(batch), tf.constant(taken))
    np.testing.assert_array_equal(ours, by_pillow(ImageOps.posterize, batch, (8 - taken).tolist()))
    assert not posterize(tf.constant(batch), tf.fill([8], 8)).numpy().any()


def test_autocontrast_is_pillows_for_any_range_of_levels():
    batch = images(500)
    np.testing.assert_array_equal(
        autocontrast(tf.constant(batch)), by_pillow(ImageOps.autocontrast, batch)
    )


def test_equalize_is_pillows_for_any_range_of_levels():
    batch = images(500)
    np.testing.assert_array_equal(equalize(tf.constant(batch)), by_pillow(ImageOps.equalize, batch))


def test_any_number_of_colors():
    batch = images(6)
    for change in (autocontrast, equalize):
        together = change(tf.constant(batch)).numpy()
        for color in range(3):
            alone = change(tf.constant(batch[..., color : color + 1]))
            np.testing.assert_array_equal(alone[..., 0], together[..., color])
