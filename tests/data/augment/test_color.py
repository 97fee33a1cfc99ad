"""Changes of color against Pillow's."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from scipy.ndimage import gaussian_filter1d
from sklearn.datasets import load_sample_images

from pipeline.data.augment.color import jitter, three_augment

PHOTO = load_sample_images().images[0][100:160, 200:280]


def fill(value):
    return tf.constant([value], tf.float32)


@pytest.mark.parametrize("factors", [(1, 1, 1), (0.6, 1.3, 0.7), (1.4, 0.7, 1.9), (0, 1, 1)])
def test_jitter_is_pillows_enhancers_one_after_another(factors):
    ours = jitter(tf.constant(PHOTO[None]), *map(fill, factors))[0].numpy()
    image = Image.fromarray(PHOTO)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, factor in zip(enhancers, factors, strict=True):
        image = enhancer(image).enhance(factor)
    np.testing.assert_array_equal(ours, image)


def test_three_augment_does_one_of_three():
    images = tf.constant(np.stack([PHOTO] * 3))
    gray, solarized, blurred = three_augment(
        images, tf.constant([0, 1, 2]), tf.constant([1.0, 1.0, 1.3])
    ).numpy()
    image = Image.fromarray(PHOTO)
    np.testing.assert_array_equal(gray, np.asarray(image.convert("L").convert("RGB")))
    np.testing.assert_array_equal(solarized, np.asarray(ImageOps.solarize(image, 128)))
    expected = PHOTO.astype(float)
    for axis in (0, 1):
        expected = gaussian_filter1d(expected, 1.3, axis, mode="nearest", radius=6)
    assert np.abs(blurred - expected).max() < 1.5
