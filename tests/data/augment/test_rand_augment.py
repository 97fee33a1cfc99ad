"""RandAugment's operations are Pillow's, byte for byte, on photographs and on flat images."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from pipeline.data.augment.rand_augment import OPERATIONS, apply, rand_augment


def photographs(height=48, width=56):
    """Pieces of two photographs, and images of few or one color, uint8 [B, H, W, 3]."""
    pieces = [
        photo[top : top + height, left : left + width]
        for photo in load_sample_images().images
        for top in (0, 150, 330)
        for left in (10, 320, 550)
    ]
    two = np.zeros((height, width, 3), np.uint8)
    two[:5], two[5:, :, 1] = 200, 90
    return np.stack([*pieces, two, np.full_like(two, 77), np.full_like(two, 255)])


IMAGES = photographs()


def changed(name, strength):
    count = len(IMAGES)
    operations = tf.fill([1, count], OPERATIONS.index(name))
    return apply(
        tf.constant(IMAGES), operations, tf.fill([1, count], tf.constant(strength))
    ).numpy()


def factor(strength):
    """In the precision of the pipeline: where a product is nearly whole, the last bit counts."""
    return float(1 + np.float32(0.9) * np.float32(strength))


def transform(image, *matrix):
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST,
        fillcolor=(128, 128, 128),
    )  # fmt: skip


BY_PILLOW = {
    "identity": lambda image, s: image,
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "equalize": lambda image, s: ImageOps.equalize(image),
    "posterize": lambda image, s: ImageOps.posterize(image, 8 - round(abs(s) * 4)),
    "solarize": lambda image, s: ImageOps.solarize(image, 256 * (1 - abs(s))),
    "brightness": lambda image, s: ImageEnhance.Brightness(image).enhance(factor(s)),
    "contrast": lambda image, s: ImageEnhance.Contrast(image).enhance(factor(s)),
    "color": lambda image, s: ImageEnhance.Color(image).enhance(factor(s)),
    "sharpness": lambda image, s: ImageEnhance.Sharpness(image).enhance(factor(s)),
    "rotate": lambda image, s: image.rotate(
        30 * s, Image.Resampling.NEAREST, fillcolor=(128, 128, 128)
    ),
    "shear_x": lambda image, s: transform(image, 1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda image, s: transform(image, 1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda image, s: transform(image, 1, 0, s * 150 / 331 * 56, 0, 1, 0),
    "translate_y": lambda image, s: transform(image, 1, 0, 0, 0, 1, s * 150 / 331 * 48),
}


@pytest.mark.parametrize("strength", [-1.0, -0.9, -0.35, 0.0, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name, strength):
    theirs = [np.asarray(BY_PILLOW[name](Image.fromarray(image), strength)) for image in IMAGES]
    np.testing.assert_array_equal(changed(name, strength), theirs)


def test_operations_follow_each_other():
    names, strengths = ("posterize", "rotate", "sharpness"), (0.7, 0.5, -0.9)
    images = IMAGES
    for name, strength in zip(names, strengths, strict=True):
        operations = np.full((1, len(images)), OPERATIONS.index(name), np.int32)
        images = apply(images, operations, np.full(operations.shape, strength, np.float32)).numpy()
    operations = np.array([[OPERATIONS.index(name)] * len(images) for name in names], np.int32)
    together = np.repeat(np.array(strengths, np.float32)[:, None], len(images), axis=1)
    np.testing.assert_array_equal(apply(IMAGES, operations, together), images)


def test_each_image_has_operations_of_its_own_with_equal_chances(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "pipeline.data.augment.rand_augment.apply",
        lambda images, *how: seen.extend(zip(*map(tf.unstack, how), strict=True)) or images,
    )
    count = 14_000
    index = tf.range(count, dtype=tf.int64)
    images = tf.zeros([count, 1, 1, 3], tf.uint8)
    rand_augment(images, 2, 9.0, 0, tf.zeros_like(index), index)
    for operation, strength in seen:
        counts = np.bincount(operation, minlength=14)
        assert abs(counts - 1000).max() < 130  # four standard deviations
        np.testing.assert_allclose(np.abs(strength), 0.9, rtol=1e-6)
        assert abs(np.mean(strength)) < 0.04
    (first, sign), (second, other_sign) = seen
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04
    assert abs(np.corrcoef(sign, other_sign)[0, 1]) < 0.04
    assert abs(np.corrcoef(first, sign)[0, 1]) < 0.04


def test_an_image_does_not_depend_on_those_beside_it():
    index = tf.range(len(IMAGES), dtype=tf.int64)
    epoch = tf.ones_like(index)
    whole = rand_augment(tf.constant(IMAGES), 2, 9.0, 3, epoch, index).numpy()
    order = np.random.default_rng(0).permutation(len(IMAGES))[:7]
    some = rand_augment(
        tf.constant(IMAGES[order]), 2, 9.0, 3, tf.gather(epoch, order), tf.gather(index, order)
    )
    np.testing.assert_array_equal(some, whole[order])
    assert (whole != IMAGES).any(axis=(1, 2, 3)).mean() > 0.6
