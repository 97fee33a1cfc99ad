"""Random erasing against rectangles made with NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data.augment.erase import AREA, ASPECT, erase


def draws(count):
    rng = np.random.default_rng(0)
    return [rng.random(count).astype(np.float32) for _ in range(4)]


def test_a_rectangle_of_the_area_and_aspect_that_were_drawn_is_zero():
    count, height, width = 60, 24, 36
    area, aspect, top, left = draws(count)
    images = tf.ones([count, height, width, 3])
    chosen = np.arange(count) % 3 > 0
    ours = erase(images, tf.constant(chosen), *map(tf.constant, (area, aspect, top, left))).numpy()
    for i in range(count):
        expected = np.ones((height, width, 3))
        if chosen[i]:
            size = (AREA[0] + area[i] * (AREA[1] - AREA[0])) * height * width
            ratio = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** aspect[i]
            rows = int(np.clip(round(float(np.sqrt(size * ratio))), 1, height))
            columns = int(np.clip(round(float(np.sqrt(size / ratio))), 1, width))
            y, x = int(top[i] * (height - rows + 1)), int(left[i] * (width - columns + 1))
            expected[y : y + rows, x : x + columns] = 0
        np.testing.assert_array_equal(ours[i], expected)


@pytest.mark.parametrize("chosen", [False, True])
def test_every_place_of_the_image_can_be_reached(chosen):
    count = 3000
    rectangles = erase(
        tf.ones([count, 10, 10, 1]), tf.fill([count], chosen), *map(tf.constant, draws(count))
    ).numpy()
    assert ((rectangles == 0).any(axis=0)).all() == chosen
