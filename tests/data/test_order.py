"""The order of examples: a permutation an epoch, and as good as a shuffled one."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from pipeline.data.order import positions_to_examples, uniforms
from tests.test_splitmix import splitmix64

SIZES = (1437, 45_000, 1_281_167)


def order(num_examples, epoch, seed=0):
    positions = tf.range(num_examples, dtype=tf.int64) + epoch * num_examples
    epochs, index = positions_to_examples(positions, num_examples, seed)
    assert set(epochs.numpy()) == {epoch}
    return index.numpy()


def correlation(a, b):
    return abs(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize("num_examples", [1, 2, 3, 5, 64, *SIZES])
def test_an_epoch_holds_every_example_once(num_examples):
    assert (np.bincount(order(num_examples, 3), minlength=num_examples) == 1).all()


@pytest.mark.parametrize("num_examples", SIZES)
def test_orders_of_neighbouring_epochs_and_seeds_do_not_correlate(num_examples):
    orders = [order(num_examples, epoch) for epoch in range(4)]
    first, chance = orders[0], 5 / np.sqrt(num_examples)
    for one, following in itertools.pairwise(orders):
        assert correlation(one, following) < chance
    assert correlation(first, order(num_examples, 0, seed=1)) < chance
    assert correlation(first, np.arange(num_examples)) < chance


@pytest.mark.parametrize("num_examples", SIZES)
def test_an_order_does_not_correlate_with_itself_shifted(num_examples):
    first = order(num_examples, 0)
    for lag in (1, 2, 96, 256, 1024):
        assert correlation(first[lag:], first[:-lag]) < 5 / np.sqrt(num_examples), lag


def test_four_rounds_would_fail_these_tests(monkeypatch):
    monkeypatch.setattr("pipeline.data.order.SHUFFLE_ROUNDS", 4)
    chance = 5 / np.sqrt(45_000)
    orders = [order(45_000, epoch) for epoch in range(4)]
    assert max(correlation(one[256:], one[:-256]) for one in orders) > chance


def test_the_order_is_pinned():
    """A change of this order changes what resumed runs train: it may not come unnoticed."""
    assert order(10, 0).tolist() == [4, 0, 1, 8, 7, 2, 3, 6, 9, 5]


def test_a_batch_runs_on_across_the_end_of_an_epoch():
    epochs, index = positions_to_examples(tf.range(5, 15, dtype=tf.int64), 10, 0)
    assert epochs.numpy().tolist() == [0] * 5 + [1] * 5
    assert index.numpy().tolist() == order(10, 0)[5:].tolist() + order(10, 1)[:5].tolist()


def test_draws_are_uniform():
    values = uniforms(0, 0, tf.range(100_000, dtype=tf.int64), [0]).numpy()[0]
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.bincount((values * 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_draws_of_neighbours_are_independent():
    index = tf.range(100_000, dtype=tf.int64)
    base, other_draw = uniforms(0, 0, index, [0, 1]).numpy()
    others = {
        "draw": other_draw,
        "epoch": uniforms(0, 1, index, [0]).numpy()[0],
        "seed": uniforms(1, 0, index, [0]).numpy()[0],
        "index": uniforms(0, 0, index + 1, [0]).numpy()[0],
    }
    for name, other in others.items():
        assert stats.pearsonr(base, other).pvalue > 1e-3, name
        cells = (base * 16).astype(int) * 16 + (other * 16).astype(int)
        assert stats.chisquare(np.bincount(cells, minlength=256)).pvalue > 1e-3, name


def test_a_draw_depends_on_its_arguments_only():
    index = tf.constant([3, 1, 4, 1, 5], tf.int64)
    batch = uniforms(2, tf.fill([5], tf.constant(6, tf.int64)), index, [7, 1]).numpy()
    alone = [uniforms(2, 6, index[i : i + 1], [1]).numpy()[0, 0] for i in range(5)]
    assert batch.shape == (2, 5)
    assert batch[1].tolist() == alone


def test_a_draw_is_the_hash_of_seed_draw_epoch_and_index():
    """In this order: another would change what an existing recipe trains."""
    found = uniforms(3, tf.constant([6, 7], tf.int64), tf.constant([1, 4], tf.int64), [8, 1000])
    for row, draw in zip(found.numpy(), (8, 1000), strict=True):
        for value, epoch, index in zip(row, (6, 7), (1, 4), strict=True):
            state = 0
            for word in (3, draw, epoch, index):
                state = splitmix64(state ^ word)
            assert value == (state >> 40) / 2**24
