"""Solarize against Pillow, for every threshold."""

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from pipeline.data.augment.intensity import solarize

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
