"""Targets and mixing against the closed form, and SciPy's distributions."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from pipeline.config import DataConfig
from pipeline.data.augment.mix import beta_quantile, blend_partners, cutmix_box, mix, one_hot


def test_smoothed_targets_follow_the_formula():
    targets = one_hot(tf.constant([2, 0]), 4, 0.1).numpy()
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, 0.9 * np.eye(4)[[2, 0]] + 0.1 / 4, rtol=1e-6)


def test_without_smoothing_a_target_is_exactly_one_hot():
    np.testing.assert_array_equal(one_hot(tf.constant([1]), 3), [[0, 1, 0]])


def uniforms(count, seed=0):
    return tf.constant(np.random.default_rng(seed).random(count).astype(np.float32))


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 3.0])
def test_the_part_that_is_kept_is_beta_distributed(alpha):
    keep = beta_quantile(alpha, uniforms(20_000)).numpy()
    edges = np.linspace(0.0, 1.0, 21)
    counts, expected = np.histogram(keep, edges)[0], np.diff(stats.beta.cdf(edges, alpha, alpha))
    assert stats.chisquare(counts, expected * len(keep)).pvalue > 1e-3


def test_partners_are_the_two_of_a_pair_and_keep_their_share():
    values = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    keep = np.float32([0.2, 0.2, 1.0, 1.0, 0.5, 0.5])[:, None, None]
    expected = keep * values + (1 - keep) * values[[1, 0, 3, 2, 5, 4]]
    ours = blend_partners(tf.constant(values), tf.constant(keep))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_a_box_is_the_papers():
    # Section 3.1 and its code: center uniform, sides sqrt(1 - keep), cut off at the border.
    keep, row, column = (uniforms(50, seed).numpy() for seed in (1, 2, 3))
    boxes = cutmix_box(*map(tf.constant, (keep, row, column)), 12, 20).numpy()
    for box, k, r, c in zip(boxes[..., 0], keep, row, column, strict=True):
        expected = np.zeros((12, 20))
        high, wide = (int(length * np.sqrt(np.float32(1) - k)) for length in (12, 20))
        top, left = int(r * 12), int(c * 20)
        expected[max(top - high // 2, 0) : top + high // 2,
                 max(left - wide // 2, 0) : left + wide // 2] = 1  # fmt: skip
        np.testing.assert_array_equal(box, expected)


def mixed(count=4000, epoch=0, readable=None, **settings):
    """Pairs of a black and a white image of two classes, mixed."""
    images = tf.tile(tf.constant([0.0, 1.0])[:, None, None, None], [count // 2, 8, 8, 3])
    target = tf.tile(tf.eye(2), [count // 2, 1])
    readable = tf.ones([count], tf.bool) if readable is None else readable
    epochs = tf.fill([count], tf.constant(epoch, tf.int64))
    config = DataConfig(**settings)
    index = tf.range(count, dtype=tf.int64)
    images, target = mix(images, target, readable, config, 5, epochs, index)
    return images.numpy(), target.numpy()


@pytest.mark.parametrize(
    "settings",
    [{"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}],
)
def test_a_target_is_the_share_of_the_pixels(settings):
    images, target = mixed(**settings)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), target[:, 1], atol=1e-5)
    np.testing.assert_allclose(target.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(target[::2], target[1::2, ::-1], atol=1e-6)


def test_the_switch_gives_each_its_part_of_the_pairs():
    images, _ = mixed(mixup_alpha=0.8, cutmix_alpha=1.0, cutmix_probability=0.3)
    cut = ((images == 0) | (images == 1)).all(axis=(1, 2, 3))
    assert cut.mean() == pytest.approx(0.3, abs=0.05)
    np.testing.assert_array_equal(cut[::2], cut[1::2])


def test_only_a_part_of_the_pairs_is_mixed_at_all():
    _, target = mixed(mixup_alpha=0.8, cutmix_alpha=1.0, mix_probability=0.4)
    alone = target.max(axis=1) == 1
    # A box may have no area, or cover all: such pairs count as unmixed as well.
    assert alone.mean() == pytest.approx(0.6, abs=0.06)
    np.testing.assert_array_equal(alone[::2], alone[1::2])
    plain, _ = mixed(mixup_alpha=0.8, mix_probability=0.0)
    assert set(np.unique(plain)) == {0, 1}


def test_each_epoch_mixes_anew():
    first, second = (mixed(epoch=epoch, mixup_alpha=1.0)[1][::2, 0] for epoch in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08


def test_nothing_comes_from_an_image_that_was_not_readable():
    readable = tf.constant([True, False, True, True])
    _, target = mixed(4, readable=readable, cutmix_alpha=1.0)
    np.testing.assert_array_equal(target[0], [1, 0])
