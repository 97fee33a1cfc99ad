"""The deterministic step: what any number of workers computes adds up to the same integers."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.runtimes.single import SingleRuntime
from pipeline.training import exact_step
from pipeline.training.exact_step import make_exact_gradients
from pipeline.training.fixed_point import to_gradients
from pipeline.training.gradients import dropout_seed, make_gradients
from pipeline.training.step import TRAIN_SUMS, empty_train_sums
from tests.training.experiments import tiny

RANDOM = ("model.dropout=0.3", "model.stochastic_depth=0.3", "model.attention_dropout=0.3",
          "data.mixup_alpha=0.8", "data.augment.erasing=0.5")  # fmt: skip


class Worker(SingleRuntime):
    """The microbatches of replica `place` of `workers`. It is not connected to the others."""

    def __init__(self, place=0, workers=1):
        super().__init__("CPU:0")
        self.place, self.num_replicas = place, workers

    def distribute(self, make_dataset):
        return make_dataset(self.place, self.num_replicas, 1)

    def replica_index(self):
        return tf.constant(self.place, tf.int32)


def spread_head(experiment):
    """Replaces the head of zeros, which would hide what was dropped."""
    head = experiment.model.trainable_variables[-2]
    head.assign(np.random.default_rng(0).normal(size=head.shape))


def parts_of(folder, runtime, places, *settings, step=3):
    """Sums, integers and bounds of the microbatches of a step, of the workers at these places.

    One trace serves them all, since the place is an argument of the graph.
    """
    experiment = tiny(folder, *RANDOM, "train.microbatches=6", *settings, runtime=runtime)
    spread_head(experiment)
    gradients_of = make_exact_gradients(experiment.config, experiment.model, None, runtime)
    function = tf.function(gradients_of, autograph=False)
    for runtime.place in places:
        sums, integers, bounds = function(
            next(experiment.train_iterator(step)),
            tf.constant(step, tf.int64),
            runtime.replica_index(),
            experiment.gradient_scale.exponents.value,
        )
        yield sums.numpy(), np.concatenate([np.ravel(i) for i in integers]), bounds.numpy()


def add(parts):
    """The sum over all workers."""
    return [np.sum(values, axis=0) for values in zip(*parts, strict=True)]


def step_of(folder, workers, *settings):
    return add(parts_of(folder, Worker(0, workers), range(workers), *settings))


@pytest.fixture(scope="module")
def of_one(tmp_path_factory):
    """The step of one worker."""
    return step_of(tmp_path_factory.mktemp("one"), 1)


# Of 6 microbatches, with more for some workers than for others, and one for each.
@pytest.mark.parametrize("workers", [4, 6])
def test_workers_add_up_to_the_integers_and_sums_of_one(tmp_path, of_one, workers):
    for found, expected in zip(step_of(tmp_path, workers), of_one, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_settings_of_speed_do_not_change_the_integers(tmp_path, of_one):
    several = Worker()
    several.parallel_parts = 5
    ((_, integers, _),) = parts_of(tmp_path, several, [0])
    np.testing.assert_array_equal(integers, of_one[1])


def test_dropout_that_is_drawn_by_worker_is_noticed(tmp_path, of_one, monkeypatch):
    """If the tests above could not fail, this one would."""
    ranks = iter((0, 1))

    def worker_of_two(*arguments):
        rank = next(ranks)
        monkeypatch.setattr(
            exact_step, "dropout_seed", lambda config, step, _: dropout_seed(config, step, rank)
        )
        return Worker(*arguments)

    parts = [next(parts_of(tmp_path, worker_of_two(rank, 2), [rank])) for rank in range(2)]
    assert (add(parts)[1] != of_one[1]).any()


def test_the_number_of_microbatches_changes_dropout_only(tmp_path):
    plain = ("model.dropout=0", "model.stochastic_depth=0", "model.attention_dropout=0")
    results = [
        step_of(tmp_path, 1, *plain, f"train.microbatches={number}", "data.mixup_alpha=0")
        for number in (3, 6)
    ]
    (sums, integers, _), (other_sums, other_integers, _) = results
    np.testing.assert_allclose(sums, other_sums, rtol=1e-6)
    unit = np.abs(integers).max()
    np.testing.assert_allclose(integers / unit, other_integers / unit, atol=1e-5)


def test_a_step_whose_exponents_do_not_fit_is_computed_again(tmp_path):
    experiment = tiny(tmp_path, *RANDOM)
    spread_head(experiment)
    experiment.train(experiment.train_iterator(0), empty_train_sums(), 2)
    before = experiment.gradient_scale.repeated_steps.numpy()
    assert before == 1  # the first step
    start = experiment.snapshot(2, {})

    def third_step():
        sums = experiment.train(experiment.train_iterator(2), empty_train_sums(), 1).sums
        return sums, [variable.numpy() for variable in experiment.model.variables]

    sums, plain = third_step()
    assert experiment.gradient_scale.repeated_steps.numpy() == before
    experiment.restore(start)
    scale = experiment.gradient_scale.exponents
    scale.assign(scale.numpy() + 12)  # every sum would overflow
    again, disturbed = third_step()
    np.testing.assert_array_equal(again, sums)
    assert dict(zip(TRAIN_SUMS, sums, strict=True))["steps"] == 1
    assert experiment.gradient_scale.repeated_steps.numpy() > before
    for one, other in zip(plain, disturbed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_the_sum_is_that_of_gradients_in_floating_point(tmp_path):
    exact, default = tiny(tmp_path), tiny(tmp_path, "train.deterministic=false")
    for experiment in (exact, default):
        spread_head(experiment)
    step = tf.constant(0, tf.int64)
    _, expected = make_gradients(default.config, default.model, None)(
        next(default.train_iterator(0)), step, tf.constant(0)
    )
    exponents = tf.constant([-int(np.frexp(np.abs(g).max())[1]) + 24 for g in expected])
    gradients_of = make_exact_gradients(exact.config, exact.model, None, exact.runtime)
    _, integers, _ = gradients_of(next(exact.train_iterator(0)), step, tf.constant(0), exponents)
    found = to_gradients(integers, exponents)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-6 * np.abs(other).max() + 2e-7)


def test_an_evaluation_has_the_same_digits_for_every_batch_size(tmp_path):
    def evaluate(size, parallel_parts):
        runtime = SingleRuntime("CPU:0")
        runtime.parallel_parts = parallel_parts
        experiment = tiny(tmp_path, f"data.eval_batch_size={size}", runtime=runtime)
        spread_head(experiment)
        return experiment.evaluate("test")

    first, *others = (evaluate(size, parts) for size, parts in ((12, 1), (1, 1), (7, 3), (40, 2)))
    assert all(other == first for other in others)
