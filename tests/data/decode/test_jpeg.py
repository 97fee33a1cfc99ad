"""Decoding a part of a JPEG gives the pixels of the whole."""

import io

import numpy as np
import pytest
import simplejpeg
import tensorflow as tf
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.decode import jpeg

HEIGHT, WIDTH = 301, 403
SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def photograph():
    """Smooth colors with sharp edges and noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    pixels = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).copy()
    pixels[100:200, 150:250] = (255, 0, 0)
    noise = rng.integers(-20, 20, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def encoded(kind):
    pixels = photograph()
    if kind == "progressive":
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", progressive=True, quality=90)
        return stream.getvalue()
    if kind == "Gray":
        return simplejpeg.encode_jpeg(pixels[..., :1].copy(), 90, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(pixels, 90, "RGB", kind)


def both(content, box, size, **settings):
    config = DataConfig(image_size=size, **settings)
    results = []
    for is_whole in (False, True):
        result = np.zeros((size, size, 3), np.uint8)
        assert jpeg.decode_box(content, box, (HEIGHT, WIDTH), result, config, is_whole)
        results.append(result)
    return results


@pytest.mark.parametrize("kind", [*SUBSAMPLINGS, "progressive"])
@pytest.mark.parametrize("size", [8, 24, 64])
def test_a_part_has_the_pixels_of_the_whole(kind, size):
    content, rng = encoded(kind), np.random.default_rng(size)
    parts = 0
    for _ in range(30):
        height, width = (int(rng.integers(side // 10, side + 1)) for side in (HEIGHT, WIDTH))
        top, left = int(rng.integers(HEIGHT - height + 1)), int(rng.integers(WIDTH - width + 1))
        whole, part = both(content, (top, left, height, width), size)
        assert np.array_equal(whole, part), (top, left, height, width)
        parts += height * width < 0.5 * HEIGHT * WIDTH
    assert parts > 8


def test_the_part_is_decoded_by_tensorflow(monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    content = encoded("420")
    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    by_part = np.zeros((64, 64, 3), np.uint8)
    config = DataConfig(image_size=64)
    box, stored = (10, 20, 100, 100), (HEIGHT, WIDTH)
    assert jpeg.decode_box(content, box, stored, by_part, config, True)
    expected = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
    monkeypatch.undo()
    from pipeline.data.resample import resample

    result = np.zeros_like(by_part)
    resample(expected.numpy(), box, result, config.antialias)
    assert np.array_equal(result, by_part)


def test_what_tensorflow_cannot_decode_is_left_to_others():
    config, result = DataConfig(image_size=64), np.zeros((64, 64, 3), np.uint8)
    content = encoded("420")[:500]
    assert not jpeg.decode_box(content, (0, 0, 50, 50), (HEIGHT, WIDTH), result, config, True)
    assert not jpeg.decode_box(b"GIF89a", (0, 0, 50, 50), (HEIGHT, WIDTH), result, config, True)
