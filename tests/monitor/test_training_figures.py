"""Figures of a run: the content is computed from the data."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.monitor import training_figures
from pipeline.monitor.training_figures import (
    describe_target,
    draw_attention,
    draw_batch,
    draw_image_in_patches,
    draw_positions,
)

CLASSES = ["cat", "dog", "a class with a long name", "bird"]
DRAW = np.random.default_rng(0)


def smoothed(target, smoothing=0.1):
    return np.float32(np.array(target) * (1 - smoothing) + smoothing / len(target))


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ([0, 1, 0, 0], "dog"),
        ([0, 0, 1, 0], "a class with …"),
        ([0.3, 0.7, 0, 0], "70% dog\n30% cat"),
        ([0.01, 0.99, 0, 0], "dog"),
    ],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_target_is_named_by_its_shares_without_the_smoothing(target, text, smoothing):
    assert describe_target(smoothed(target, smoothing), CLASSES) == text


def size(png):
    return Image.open(io.BytesIO(png)).size


@pytest.mark.parametrize("count", [1, 5, 32])
def test_a_page_has_a_row_for_every_eight_images(count):
    images = DRAW.integers(0, 256, (count, 6, 6, 3), np.uint8)
    targets = np.eye(4, dtype=np.float32)[np.arange(count) % 4]
    width, height = size(draw_batch(images, targets, CLASSES))
    assert width == pytest.approx(min(count, 8) * 130, abs=2)
    assert height == pytest.approx(-(-count // 8) * 165, abs=2)


def test_every_pixel_of_the_image_is_in_the_picture_of_its_patches():
    image = np.zeros((8, 8, 3), np.uint8)
    image[5, 2] = (255, 0, 0)  # in the patch of row 2, column 1
    drawn = np.asarray(Image.open(io.BytesIO(draw_image_in_patches(image, 2))).convert("RGB"))
    red = (drawn[..., 0] > 250) & (drawn[..., 1] < 5)
    whole, patches = red[:, : red.shape[1] // 2], red[:, red.shape[1] // 2 :]
    assert whole.any()
    assert patches.any()


def test_positions_are_compared_by_their_cosine(monkeypatch):
    positions = DRAW.normal(size=(6, 5)).astype(np.float32)
    sheets = []
    real = training_figures.Figure.subplots

    def watch(figure, *arguments, **rest):
        axis = real(figure, *arguments, **rest)
        show = axis.imshow
        axis.imshow = lambda sheet, **how: (sheets.append(sheet), show(sheet, **how))[1]
        return axis

    monkeypatch.setattr(training_figures.Figure, "subplots", watch)
    draw_positions(positions, (2, 3))
    (sheet,) = sheets
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1)
    for a in range(6):
        for b in range(6):
            row, column = 3 * (a // 3) + b // 3, 4 * (a % 3) + b % 3
            dot = float(positions[a] @ positions[b])
            cosine = dot / np.linalg.norm(positions[a]) / np.linalg.norm(positions[b])
            assert sheet[row, column] == pytest.approx(cosine, abs=1e-5)


def test_attention_is_drawn_for_each_image():
    images = DRAW.integers(0, 256, (3, 8, 8, 3), np.uint8)
    shares = DRAW.random((3, 4, 4)).astype(np.float32)
    assert size(draw_attention(images, shares, CLASSES[:3]))[0] == pytest.approx(480, abs=2)
