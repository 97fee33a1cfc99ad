"""`train.xla`: what is compiled trains the same, and what is faster is chosen."""

import time

import numpy as np
import pytest
import tensorflow as tf

from pipeline.model import backend
from pipeline.runtimes.single import SingleRuntime
from pipeline.training.xla import choose_gradients
from tests.training.experiments import tiny, tiny_config

DEFAULT = "train.deterministic=false"  # The batch of a replica is not divided into microbatches.
STEP, REPLICA = tf.constant(5, tf.int64), tf.constant(0)


def gradients_of(experiment):
    return experiment.gradients.gradients_of


def with_a_head(experiment):
    """A new network's head is zero, and no gradient would come past it."""
    kernel = experiment.model.head.kernel
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape, scale=0.3))
    return experiment


@pytest.mark.parametrize(
    ("xla", "parts", "precision", "tolerance"),
    [
        # Every pair of two values.
        ("auto", 1, "float32", 1e-5),
        ("auto", 3, "mixed_bfloat16", 3e-2),
        ("always", 1, "mixed_bfloat16", 3e-2),
        ("always", 3, "float32", 1e-5),
    ],
)
def test_compiled_gradients_are_those_that_are_not(
    tmp_path, monkeypatch, xla, parts, precision, tolerance
):
    monkeypatch.setattr(backend, "MIN_COMPILED_SIZE", 1)
    settings = (f"optim.accumulate_steps={parts}", f"train.precision={precision}")
    results = []
    for way in ("never", xla):
        experiment = with_a_head(tiny(tmp_path, DEFAULT, f"train.xla={way}", *settings))
        batch = next(experiment.train_iterator(0))
        results.append(tf.function(gradients_of(experiment), autograph=False)(batch, STEP, REPLICA))
    (sums, plain), (compiled_sums, compiled) = results
    np.testing.assert_allclose(compiled_sums, sums, rtol=tolerance)
    scale = tf.linalg.global_norm(plain)
    for a, b in zip(compiled, plain, strict=True):
        assert tf.norm(b) > 0
        assert tf.norm(a - b) <= tolerance * scale


@pytest.mark.parametrize("xla", ["never", "auto", "always"])
@pytest.mark.parametrize("recompute", ["false", "true"])
def test_what_is_dropped_is_the_same_on_the_way_back(tmp_path, monkeypatch, recompute, xla):
    monkeypatch.setattr(backend, "MIN_COMPILED_SIZE", 1)
    # The derivative in the direction of the gradient is its norm, where the same is dropped again.
    experiment = with_a_head(
        tiny(tmp_path, DEFAULT, f"train.xla={xla}", f"train.recompute={recompute}",
             "model.dropout=0.3", "model.attention_dropout=0.3", "model.stochastic_depth=0.3")
    )  # fmt: skip
    batch = next(experiment.train_iterator(0))
    function = tf.function(gradients_of(experiment), autograph=False)
    _, gradients = function(batch, STEP, REPLICA)
    norm = tf.linalg.global_norm(gradients)
    variables = experiment.model.trainable_variables
    losses = []
    for distance in (0.01, -0.02):
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign(variable + distance * gradient / norm)
        losses.append(function(batch, STEP, REPLICA)[0][0] / 12)
    np.testing.assert_allclose((losses[0] - losses[1]) / 0.02, norm, rtol=0.01)


@pytest.mark.parametrize("xla", ["auto", "always"])
def test_other_steps_drop_other_places(tmp_path, monkeypatch, xla):
    monkeypatch.setattr(backend, "MIN_COMPILED_SIZE", 1)
    experiment = with_a_head(tiny(tmp_path, DEFAULT, f"train.xla={xla}", "model.dropout=0.3"))
    batch = next(experiment.train_iterator(0))
    function = tf.function(gradients_of(experiment), autograph=False)
    steps = [tf.constant(step, tf.int64) for step in (5, 6, 5)]
    losses = [float(function(batch, step, REPLICA)[0][0]) for step in steps]
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize(
    ("xla", "few", "something", "the_whole"),
    [
        ("never", 1, False, False),
        ("auto", 2**18, False, False),
        ("auto", 1, True, False),
        ("always", 1, True, True),
    ],
)
def test_xla_compiles_a_part_or_chains_in_it_where_it_is_asked_to(
    tmp_path, monkeypatch, xla, few, something, the_whole
):
    monkeypatch.setattr(backend, "MIN_COMPILED_SIZE", few)
    experiment = tiny(tmp_path, DEFAULT, f"train.xla={xla}")
    batch = next(experiment.train_iterator(0))
    traced = tf.function(gradients_of(experiment), autograph=False).get_concrete_function(
        batch, STEP, REPLICA
    )
    functions = traced.graph.as_graph_def().library.function
    found = {f.signature.name for f in functions if f.attr["_XlaMustCompile"].b}
    assert (bool(found), any("one_part" in name for name in found)) == (something, the_whole), found


def slow(seconds):
    """Gradients that take a while."""

    def gradients_of(batch, step, replica):
        wait = tf.py_function(lambda: time.sleep(seconds) or 0.0, [], tf.float32)
        return tf.zeros([4], tf.float64), [wait + tf.reduce_sum(batch["weight"])]

    return gradients_of


def failing(batch, step, replica):
    wrong = tf.debugging.Assert(batch["weight"][0] > 1.0, ["XLA cannot do this"])
    with tf.control_dependencies([wrong]):
        return tf.zeros([4], tf.float64), [tf.identity(batch["weight"])]


def chosen(folder, plain, compiled, *settings, runtime=None):
    return choose_gradients(
        tiny_config(folder, "train.deterministic=false", *settings),
        runtime or SingleRuntime("CPU:0"),
        4,
        lambda xla: compiled if xla else plain,
        on_gpu=True,
    )


@pytest.mark.parametrize(("plain_s", "compiled_s"), [(0.05, 0.0), (0.0, 0.05)])
def test_on_a_gpu_auto_takes_what_is_faster_and_says_how_to_keep_it(tmp_path, plain_s, compiled_s):
    plain, compiled = slow(plain_s), slow(compiled_s)
    choice = chosen(tmp_path, plain, compiled)
    assert choice.gradients_of is (compiled if compiled_s < plain_s else plain)
    assert f"train.xla={'always' if compiled_s < plain_s else 'never'} " in choice.reason


def test_where_xla_fails_it_is_not_taken_and_the_reason_is_told(tmp_path):
    plain = slow(0.0)
    choice = chosen(tmp_path, plain, failing)
    assert choice.gradients_of is plain
    assert "XLA cannot do this" in choice.reason


def test_no_clock_decides_what_must_be_the_same_or_on_several_replicas(tmp_path):
    plain, compiled = slow(0.05), slow(0.0)
    two = SingleRuntime("CPU:0")
    two.num_replicas = 2
    for choice in (
        chosen(tmp_path, plain, compiled, "train.deterministic=true"),
        chosen(tmp_path, plain, compiled, runtime=two),
    ):
        assert choice == (plain, None)
