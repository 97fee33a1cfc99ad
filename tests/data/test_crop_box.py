"""Which part of an image is seen, against the definition in torchvision and closed forms."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from pipeline.data.crop_box import center_box, random_box, whole_box

COUNT = 20_000
INDEX = tf.range(COUNT, dtype=tf.int64)


def boxes_of(height, width, min_area=0.08, epoch=0, seed=0):
    sizes = tf.tile([[height, width]], [COUNT, 1])
    return random_box(sizes, min_area, seed, tf.fill([COUNT], np.int64(epoch)), INDEX).numpy()


def torchvision_boxes(height, width, min_area, count):
    """RandomResizedCrop.get_params, torchvision 0.20, in NumPy."""
    rng, found = np.random.default_rng(1), []
    for _ in range(count):
        for _ in range(10):
            area = height * width * rng.uniform(min_area, 1.0)
            aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                box = rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
                break
        else:
            h, w = height, width
            if width / height < 3 / 4:
                h = round(width / (3 / 4))
            elif width / height > 4 / 3:
                w = round(height * (4 / 3))
            box = (height - h) // 2, (width - w) // 2, h, w
        found.append(box)
    return np.array(found)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (64, 64), (100, 300)])
@pytest.mark.parametrize("min_area", [0.08, 0.6])
def test_random_boxes_are_distributed_as_torchvisions(height, width, min_area):
    ours = boxes_of(height, width, min_area)
    theirs = torchvision_boxes(height, width, min_area, COUNT)
    quantities = {
        "top": lambda b: b[:, 0], "left": lambda b: b[:, 1], "height": lambda b: b[:, 2],
        "width": lambda b: b[:, 3], "area": lambda b: b[:, 2] * b[:, 3],
        "aspect": lambda b: b[:, 3] / b[:, 2], "bottom": lambda b: b[:, 0] + b[:, 2],
    }  # fmt: skip
    for name, of in quantities.items():
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-4, name


@pytest.mark.parametrize(("height", "width"), [(375, 500), (1, 1), (5, 1000), (1000, 3), (2, 3)])
def test_random_boxes_lie_within_the_image(height, width):
    top, left, box_height, box_width = boxes_of(height, width).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (box_height >= 1).all()
    assert (box_width >= 1).all()
    assert (top + box_height <= height).all()
    assert (left + box_width <= width).all()


def test_where_no_box_fits_the_largest_in_the_middle_is_taken():
    assert set(map(tuple, boxes_of(10, 1000, min_area=0.9).tolist())) == {(0, 493, 10, 13)}


def test_boxes_differ_between_epochs_and_seeds_and_come_again():
    first = boxes_of(375, 500)
    np.testing.assert_array_equal(first, boxes_of(375, 500))
    for other in (boxes_of(375, 500, epoch=1), boxes_of(375, 500, seed=1)):
        assert np.abs(np.corrcoef(first[:, 2], other[:, 2])[0, 1]) < 0.03
        assert (first != other).any(axis=1).mean() > 0.99


def test_the_part_of_the_whole_that_is_seen_by_all():
    sizes = tf.constant([[375, 500], [500, 375], [7, 7], [1, 9]])
    assert whole_box(sizes).numpy().tolist() == [
        [0, 0, 375, 500], [0, 0, 500, 375], [0, 0, 7, 7], [0, 0, 1, 9]
    ]  # fmt: skip
    assert center_box(sizes, 1.0).numpy().tolist() == [
        [0, 62, 375, 375], [62, 0, 375, 375], [0, 0, 7, 7], [0, 4, 1, 1]
    ]  # fmt: skip
    assert center_box(sizes, 0.875).numpy().tolist()[0] == [23, 86, 328, 328]
    assert center_box(sizes, 0.01).numpy().tolist()[3] == [0, 4, 1, 1]
