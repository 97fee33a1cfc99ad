"""Decoding, resizing and normalizing against Pillow and NumPy."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from pipeline.data.preprocess import decode_box, normalize, resize, resize_box

RNG = np.random.default_rng(0)


def photograph(height, width, seed=0):
    # Of its own seed: what a test sees must not depend on which tests ran before it.
    small = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(large)


def box_of(*box):
    return tf.constant(box, tf.int32)


def jpeg(image, **settings):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", **{"quality": 95, **settings})
    return stream.getvalue()


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("size", [16, 24, 72, 100])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (60, 44), (20, 90)])
def test_resizing_agrees_with_pillow(height, width, size):
    image = photograph(height, width)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    ours = resize(tf.constant(image[np.newaxis]), size, antialias=True).numpy()[0]
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_without_antialiasing_every_fourth_pixel_is_what_remains():
    image = photograph(96, 96)
    ours = resize(tf.constant(image[np.newaxis]), 32, antialias=False).numpy()[0]
    np.testing.assert_array_equal(ours, image[1::3, 1::3])


@pytest.mark.parametrize("size", [20, 72])
@pytest.mark.parametrize("antialias", [True, False])
def test_a_batch_is_resized_as_its_images_are(size, antialias):
    images = np.stack([photograph(32, 40, seed) for seed in range(3)])
    batch = resize(tf.constant(images), size, antialias).numpy()
    unknown = tf.function(
        lambda image: resize(image[tf.newaxis], size, antialias)[0],
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )
    for i in range(3):
        np.testing.assert_array_equal(unknown(images[i]), batch[i])


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("side", [1, 7, 37, 224, 375, 699])
def test_white_stays_white(side, antialias):
    # A weighted mean of 255s is a little more than 255 in some places, and 256 would become 0.
    white = tf.fill([1, side, side + 4, 3], tf.constant(255, tf.uint8))
    for size in (9, 32, 100, 225):
        assert (resize(white, size, antialias).numpy() == 255).all()


@pytest.mark.parametrize("encode", [jpeg, png])
@pytest.mark.parametrize("size", [16, 40])
@pytest.mark.parametrize("box", [(0, 0, 96, 128), (3, 17, 41, 60), (50, 100, 46, 28), (7, 9, 5, 5)])
def test_a_box_is_what_pillow_cuts_out_and_resizes(encode, size, box):
    content = encode(photograph(96, 128))
    top, left, height, width = box
    whole = Image.open(io.BytesIO(content)).convert("RGB")
    part = whole.crop((left, top, left + width, top + height))
    expected = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    ours = decode_box(tf.constant(content), box_of(*box), 128, size, "squash", True).numpy()
    reduced = encode is jpeg and min(height, width) >= 6 * size  # it is decoded smaller
    assert np.abs(ours - expected).max() <= (16 if reduced else 1)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_decoding_only_a_window_gives_the_same_bytes_as_cutting_it_out(subsampling, progressive):
    content = jpeg(photograph(96, 128), subsampling=subsampling, progressive=progressive)
    whole = np.asarray(Image.open(io.BytesIO(content)))
    ours = decode_box(tf.constant(content), box_of(21, 35, 40, 40), 128, 40, "none", True).numpy()
    np.testing.assert_array_equal(ours, whole[21:61, 35:75])


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("size", [70, 35, 26, 17])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(number, size):
    content = jpeg(load_sample_images().images[number])
    whole = Image.open(io.BytesIO(content)).crop((5, 3, 425, 423))
    expected = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    ours = decode_box(
        tf.constant(content), box_of(3, 5, 420, 420), 640, size, "squash", True
    ).numpy()
    coarse = resize(tf.constant(np.asarray(whole)[np.newaxis]), size, antialias=False).numpy()[0]
    error = np.abs(ours - expected).mean()
    assert 0.2 < error < 3.0  # it was decoded smaller, or there would be no difference
    assert error < np.abs(coarse - expected).mean() / 3  # what aliasing does


def test_none_refuses_another_size():
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        resize_box(tf.zeros([9, 9, 3], tf.uint8), box_of(0, 0, 9, 9), 8, "none", True)


def test_jpeg_is_decoded_as_pillow_does():
    content = jpeg(photograph(48, 64), quality=90)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    ours = decode_box(tf.constant(content), box_of(0, 0, 48, 64), 64, 48, "squash", True)
    reference = resize(tf.constant(expected[np.newaxis]), 48, True)[0]
    np.testing.assert_array_equal(ours, reference)


def test_normalize_follows_the_formula():
    images = RNG.integers(0, 256, (2, 3, 3, 3), np.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    expected = (images / 255.0 - np.array(mean)) / np.array(std)
    ours = normalize(tf.constant(images), mean, std)
    assert ours.dtype == tf.float32
    np.testing.assert_allclose(ours, expected, atol=2e-6)
