import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.runtimes.single import SingleRuntime
from pipeline.training.evaluation_step import map_blocks
from pipeline.training.gradients import make_gradients, take_part
from pipeline.training.step import TRAIN_SUMS, empty_train_sums
from tests.training.experiments import tiny

DEFAULT = "train.deterministic=false"  # The batch of a replica is not divided into microbatches.
ROOT = Path(__file__).parent.parent.parent


def weights(experiment):
    return {v.path: v.numpy() for v in experiment.model.trainable_variables}


def test_gradients_in_parts_equal_those_of_the_whole_batch(tmp_path):
    whole, parts = tiny(tmp_path, DEFAULT), tiny(tmp_path, DEFAULT, "optim.accumulate_steps=3")
    batch = next(whole.train_iterator(0))
    results = [
        tf.function(make_gradients(e.config, e.model, None), autograph=False)(
            batch, tf.constant(0, tf.int64), tf.constant(0)
        )
        for e in (whole, parts)
    ]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("in_turn", [1, 2])
def test_gradients_of_parts_side_by_side_equal_those_of_the_whole_batch(tmp_path, in_turn):
    experiment = tiny(tmp_path, DEFAULT, f"optim.accumulate_steps={in_turn}")
    batch = next(experiment.train_iterator(0))
    one, several = (
        tf.function(
            make_gradients(experiment.config, experiment.model, None, parallel_parts),
            autograph=False,
        )(batch, tf.constant(0, tf.int64), tf.constant(0))
        for parallel_parts in (1, 5)  # of 12 images, and of 6 in two turns
    )
    np.testing.assert_allclose(several[0], one[0], rtol=1e-6)
    for a, b in zip(several[1], one[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("parallel_parts", "block_size"), [(1, None), (2, None), (5, None), (1, 4), (2, 4), (7, 3)]
)
def test_blocks_are_the_batch_in_its_order(parallel_parts, block_size):
    numbers = np.arange(24.0).reshape(12, 2)
    batch = {"image": tf.constant(numbers), "weight": tf.ones([12])}
    seen = []

    def function(block):
        seen.append(block["image"].shape)
        weight = tf.cast(block["weight"], tf.float64)[:, None]
        return tf.concat([block["image"] ** 2, weight], axis=1)

    blocks = map_blocks(function, batch, [None, 3], parallel_parts, block_size).numpy()
    rows = blocks.reshape(-1, 3)
    rows = rows[rows[:, 2] > 0]  # without padding
    np.testing.assert_array_equal(rows[:, :2], numbers**2)
    if block_size is not None:
        assert {shape[0] for shape in seen} == {block_size}


@pytest.mark.parametrize("parts", [1, 4, 5, 12])
def test_parts_are_the_batch_in_its_order_and_of_nearly_one_size(parts):
    batch = {"weight": tf.range(12), "image": tf.reshape(tf.range(24), [12, 2])}
    pieces = [take_part(batch, tf.constant(part), parts) for part in range(parts)]
    for name, whole in batch.items():
        np.testing.assert_array_equal(tf.concat([piece[name] for piece in pieces], 0), whole)
    sizes = {len(piece["weight"]) for piece in pieces}
    assert max(sizes) - min(sizes) <= 1


def test_a_run_in_parts_trains_what_one_that_computes_batches_as_a_whole_trains(tmp_path):
    ends = []
    for name, parts in (("whole", 1), ("parts", 5)):
        one = SingleRuntime("CPU:0")
        one.parallel_parts = parts
        folder = tmp_path / name
        folder.mkdir()
        experiment = tiny(folder, DEFAULT, runtime=one)
        experiment.train(experiment.train_iterator(0), empty_train_sums(), 6)
        ends.append((weights(experiment), experiment.evaluate("test")))
    (whole, scores), (parts, other_scores) = ends
    for path, value in whole.items():
        np.testing.assert_allclose(parts[path], value, atol=2e-5, err_msg=path)
    assert other_scores == pytest.approx(scores, abs=1e-4)


def test_the_gradient_is_that_of_the_mean_over_the_global_batch(tmp_path):
    experiment = tiny(tmp_path, DEFAULT)
    batch = next(experiment.train_iterator(0))
    _, gradients = make_gradients(experiment.config, experiment.model, None)(
        batch, tf.constant(0, tf.int64), tf.constant(0)
    )
    variable = experiment.model.trainable_variables[-2]  # the head's kernel
    direction = np.random.default_rng(0).normal(size=variable.shape).astype("float32")

    def loss(shift):
        variable.assign_add(shift * direction)
        logits = experiment.model(batch["image"], training=True).numpy().astype("float64")
        variable.assign_sub(shift * direction)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -(batch["target"].numpy() * log_p).sum(1).mean()

    slope = (loss(1e-2) - loss(-1e-2)) / 2e-2
    assert float(tf.reduce_sum(gradients[-2] * direction)) == pytest.approx(slope, rel=1e-3)


def test_one_trace_serves_every_number_of_steps(tmp_path):
    experiment = tiny(tmp_path)
    iterator = experiment.train_iterator(0)
    sums = empty_train_sums()
    for steps in (1, 3, 2):
        sums = experiment.train(iterator, sums, steps).sums
    # A new iterator, as after a resume, is served by it as well.
    experiment.train(experiment.train_iterator(6), sums, 2)
    assert experiment._train_steps.experimental_get_tracing_count() == 1
    assert dict(zip(TRAIN_SUMS, sums, strict=True))["steps"] == 6


def test_sums_do_not_depend_on_how_steps_are_divided_into_calls(tmp_path):
    experiment = tiny(tmp_path)
    start = experiment.snapshot(0, {})

    def run(*calls):
        experiment.restore(start)
        iterator, sums = experiment.train_iterator(0), empty_train_sums()
        for steps in calls:
            sums = experiment.train(iterator, sums, steps).sums
        return sums, weights(experiment)

    (sums_a, a), (sums_b, b) = run(8), run(1, 4, 3)
    np.testing.assert_array_equal(sums_a, sums_b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


# In a process of its own: others here have switched deterministic operations on, for good.
TIMED = """if True:
    import json, sys, time
    from pathlib import Path
    import tensorflow as tf
    from pipeline.training.step import empty_train_sums
    from tests.training.experiments import tiny

    def late(value, seconds):
        def wait(value):
            time.sleep(seconds)
            return value
        return tf.ensure_shape(tf.numpy_function(wait, [value], value.dtype), value.shape)

    experiment = tiny(Path(sys.argv[1]), "train.deterministic=false")
    plain = experiment.runtime.sum_gradients
    experiment.runtime.sum_gradients = lambda gradients: [
        late(g, 0.03 if i == 0 else 0) for i, g in enumerate(plain(gradients))
    ]
    batch = next(experiment.train_iterator(0))
    slow = tf.data.Dataset.from_tensors(batch).repeat()
    slow = slow.map(lambda one: one | {"weight": late(one["weight"], 0.5)})
    stretch = experiment.train(iter(slow), empty_train_sums(), 5)
    print(json.dumps(stretch.seconds.tolist()))
"""


@pytest.mark.processes
def test_waiting_for_input_and_for_the_sum_of_gradients_is_timed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", TIMED, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    took, for_input, for_sum = np.array(json.loads(done.stdout))[1:].T
    # tf.data fetches ahead during the step.
    assert np.all(for_input >= 0.05)
    assert np.all(for_sum >= 0.03)
    assert np.all(for_input + for_sum < took)


def test_steps_whose_gradient_is_not_finite_are_skipped_and_counted(tmp_path):
    experiment = tiny(tmp_path)
    head = experiment.model.trainable_variables[-1]
    head.assign(np.full(head.shape, np.nan, "float32"))
    before = weights(experiment)
    sums = experiment.train(experiment.train_iterator(0), empty_train_sums(), 2).sums
    assert dict(zip(TRAIN_SUMS, sums, strict=True))["skipped_updates"] == 2
    for name, value in weights(experiment).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_lower_precision_learns_and_keeps_float32_weights(tmp_path, precision):
    experiment = tiny(tmp_path, f"train.precision={precision}")
    iterator = experiment.train_iterator(0)
    sums = experiment.train(iterator, empty_train_sums(), 20).sums
    named = dict(zip(TRAIN_SUMS, sums, strict=True))
    later = experiment.train(iterator, empty_train_sums(), 20).sums[0]
    assert named["skipped_updates"] <= 2
    assert later < named["loss"]
    assert all(v.numpy().dtype == np.float32 for v in experiment.model.trainable_variables)


def test_dropout_differs_by_step_and_replica_and_repeats_from_run_to_run(tmp_path):
    def losses():
        experiment = tiny(tmp_path, DEFAULT, "model.dropout=0.5")
        head = experiment.model.trainable_variables[-2]
        # A head of zeros, as it starts, would hide what was dropped.
        head.assign(np.random.default_rng(0).normal(size=head.shape))
        function = tf.function(
            make_gradients(experiment.config, experiment.model, None), autograph=False
        )
        batch = next(experiment.train_iterator(0))
        return [
            float(function(batch, tf.constant(step, tf.int64), tf.constant(replica))[0][0])
            for step, replica in ((0, 0), (1, 0), (0, 1))
        ]

    first = losses()
    assert len(set(first)) == 3
    assert first == losses()
