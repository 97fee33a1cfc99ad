"""Decoding, resizing and normalising against Pillow and NumPy."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.data.preprocess import decode, normalize, resize

RNG = np.random.default_rng(0)


def photograph(height, width):
    small = RNG.integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(large)


@pytest.mark.parametrize("size", [16, 24, 72, 100])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (60, 44), (20, 90)])
def test_squash_agrees_with_pillow(height, width, size):
    image = photograph(height, width)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    ours = resize(tf.constant(image), size, "squash").numpy()
    assert np.abs(ours.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [16, 72])
@pytest.mark.parametrize(("height", "width"), [(60, 44), (20, 91), (33, 33)])
def test_crop_agrees_with_pillows_central_box(height, width, size):
    image = photograph(height, width)
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    expected = Image.fromarray(image).resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short)
    )
    ours = resize(tf.constant(image), size, "crop").numpy()
    assert np.abs(ours.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("mode", ["squash", "crop"])
@pytest.mark.parametrize("size", [20, 72])
def test_a_batch_is_resized_as_its_images_are(mode, size):
    images = np.stack([photograph(32, 40) for _ in range(3)])
    batch = resize(tf.constant(images), size, mode).numpy()
    unknown = tf.function(
        lambda image: resize(image, size, mode),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )
    for i in range(3):
        np.testing.assert_array_equal(unknown(images[i]), batch[i])


def test_white_stays_white():
    white = tf.fill([1, 37, 41, 3], tf.constant(255, tf.uint8))
    for mode in ("squash", "crop"):
        for size in (9, 100):
            assert (resize(white, size, mode).numpy() == 255).all()


def test_none_refuses_another_size():
    image = tf.zeros([8, 9, 3], tf.uint8)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        resize(image, 8, "none")


def test_jpeg_is_decoded_as_pillow_does():
    stream = io.BytesIO()
    Image.fromarray(photograph(64, 48)).save(stream, "JPEG", quality=80)
    expected = np.asarray(Image.open(stream))
    ours = decode(tf.constant(stream.getvalue())).numpy()
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_normalize_follows_the_formula():
    images = RNG.integers(0, 256, (2, 3, 3, 3), np.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    expected = (images / 255.0 - np.array(mean)) / np.array(std)
    ours = normalize(tf.constant(images), mean, std)
    assert ours.dtype == tf.float32
    np.testing.assert_allclose(ours, expected, atol=2e-6)
