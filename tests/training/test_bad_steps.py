"""Steps whose loss or gradient is not finite: skipped, then rolled back, then the run ends."""

import re
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import Stopped
from pipeline.monitor.progress import ProgressDisplay
from pipeline.training import experiment as experiment_module
from pipeline.training import rollback
from pipeline.training.rollback import TrainingFailedError
from pipeline.training.step import (
    empty_train_sums,
    make_step,
    make_train_steps,
    make_update,
)
from pipeline.training.step_actions import StepActions
from tests.training import runs
from tests.training.experiments import tiny, tiny_config
from tests.training.runs import STEPS, StopAt, assert_same_end, rows, store, with_traced_graphs

# These tests are of the loop, and not of how its graphs are traced.
train = partial(runs.train, fresh=False)
EVERY_FIVE = ["checkpoint.every_steps=5", "checkpoint.every_epochs=null", "train.max_bad_steps=3"]
BAD_PLACE = 4  # in the batch


@pytest.fixture
def poison(monkeypatch):
    """Makes one image of each of some steps' data NaN, wherever these data are trained on."""
    real = experiment_module.train_dataset

    def start(bad_steps):
        bad_steps = tf.constant(sorted(bad_steps), tf.int64)

        def poisoned(*arguments, start_step, **rest):
            def spoil(number, batch):
                bad = tf.reduce_any(start_step + number == bad_steps)
                image, index = batch["image"], batch["index"]  # with or without microbatches
                place = tf.one_hot(BAD_PLACE, tf.size(index))
                wrong = tf.where(bad & (place > 0), np.nan, 0.0)
                shape = [*index.shape, *[1] * (len(image.shape) - len(index.shape))]
                return batch | {"image": image + tf.reshape(wrong, shape)}

            return real(*arguments, start_step=start_step, **rest).enumerate().map(spoil)

        monkeypatch.setattr(experiment_module, "train_dataset", poisoned)

    return start


@pytest.fixture
def undescribed(monkeypatch):
    """Leaves out the search for the bad example, which traces a graph at each rollback."""
    monkeypatch.setattr(rollback, "describe_bad_step", lambda *position: "on rank 0: the test")


class Said(ProgressDisplay):
    """A display that keeps the lines."""

    def __init__(self):
        super().__init__(STEPS, 4.0, enabled=False)
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def name_of_bad_example(folder, data_step):
    """The poisoned example of a step, by the order of examples alone."""
    run = tiny(folder)
    index = next(run.train_iterator(data_step))["index"].numpy().ravel()[BAD_PLACE]
    return run.source.splits["train"].name(int(index))


def test_a_few_are_skipped_and_counted(tmp_path, poison):
    poison([6, 7, 12])
    train(tmp_path, *EVERY_FIVE)
    by_step = {r["step"]: r for r in rows(tmp_path) if r["split"] == "train"}
    assert {s: r["skipped_updates"] for s, r in by_step.items()} == {5: 0, 10: 2, 15: 1, 20: 0}
    # A row is the mean over the steps that counted.
    assert all(np.isfinite(r["loss"]) and np.isfinite(r["gradient_norm"]) for r in by_step.values())


def numpy_adamw(weights, rates_and_gradients, config):
    """Loshchilov and Hutter's equations, with this project's average; returns both."""
    m, v, average = (np.zeros_like(weights), np.zeros_like(weights), weights)
    for t, (rate, gradient) in enumerate(rates_and_gradients, start=1):
        m = config.beta_1 * m + (1 - config.beta_1) * gradient
        v = config.beta_2 * v + (1 - config.beta_2) * gradient**2
        m_hat, v_hat = m / (1 - config.beta_1**t), v / (1 - config.beta_2**t)
        decay = rate * config.weight_decay * weights
        weights = weights - decay - rate * m_hat / (np.sqrt(v_hat) + config.epsilon)
        momentum = min(config.ema_momentum, t / (t + 9))
        average = momentum * average + (1 - momentum) * weights
    return weights, average


@pytest.mark.parametrize("bad", [{0}, {1, 2}, {4}])
def test_the_weights_are_those_of_a_run_in_which_the_skipped_steps_never_happened(tmp_path, bad):
    run = tiny(tmp_path, "train.deterministic=false", "optim.clip_norm=null")
    draw = np.random.default_rng(0)
    shapes = [tuple(v.shape) for v in run.model.trainable_variables]
    place = next(i for i, v in enumerate(run.model.trainable_variables) if "head/kernel" in v.path)
    head = run.model.trainable_variables[place]
    before = head.numpy().astype("float64")
    gradients = draw.normal(size=(6, *shapes[place])).astype("float32")
    given = np.where(np.isin(range(6), list(bad))[:, None, None], np.nan, gradients)

    def gradients_of(batch, step, replica):
        all_of_them = [tf.zeros(shape) for shape in shapes]
        all_of_them[place] = tf.gather(tf.constant(given), step)
        return tf.zeros([4], tf.float64), all_of_them

    update = make_update(run.config, run.runtime, run.optimizer, run.schedule, None)
    step = make_step(run.runtime, gradients_of, run.optimizer, update)
    train_steps = make_train_steps(run.config, step, run.optimizer, None, run.completed)
    train_steps(
        run.train_iterator(0), tf.constant(empty_train_sums()), tf.constant(0), tf.constant(6)
    )
    assert run.optimizer.iterations.numpy() == 6
    assert run.optimizer.applied_updates.numpy() == 6 - len(bad)
    applied = [
        (float(run.schedule(tf.constant(step))), gradients[step].astype("float64"))
        for step in range(6)
        if step not in bad
    ]
    weights, average = numpy_adamw(before, applied, run.config.optim)
    np.testing.assert_allclose(head.numpy(), weights, rtol=1e-4, atol=1e-6)
    held = run.optimizer.averages[head.path].numpy()
    np.testing.assert_allclose(held, average, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_from_before_updates_were_counted_continues_from_its_steps(tmp_path):
    run = tiny(tmp_path)
    run.train(run.train_iterator(0), empty_train_sums(), 3)
    older = run.snapshot(3, {})
    del older.tensors["optimizer"]["applied_updates"]
    other = tiny(tmp_path)
    other.restore(older)
    assert other.optimizer.applied_updates.numpy() == 3
    # A newer one keeps its own count.
    run.optimizer.applied_updates.assign(2)
    other.restore(run.snapshot(3, {}))
    assert other.optimizer.applied_updates.numpy() == 2


def test_many_in_a_row_roll_the_run_back_and_skip_their_data(tmp_path, poison):
    poison([6, 7, 8])
    said = Said()
    train(tmp_path, *EVERY_FIVE, display=said)
    # By hand: five steps on the data of steps 0 to 4, fifteen on those from step 9 on.
    reference = with_traced_graphs(tiny_config(tmp_path, *EVERY_FIVE))
    reference.train(reference.train_iterator(0), empty_train_sums(), 5)
    reference.train(reference.train_iterator(9), empty_train_sums(), 15)
    got = store(tmp_path).load(STEPS)
    for group, variables in reference.variables.items():
        for name, variable in variables.items():
            np.testing.assert_array_equal(got.tensors[group][name], variable.numpy(), err_msg=name)
    steps = [(r["step"], r["split"]) for r in rows(tmp_path)]
    assert len(steps) == len(set(steps)) == 7
    (line,) = (line for line in said.lines if "not finite" in line)
    assert "steps 7 to 9 were not finite, on rank 0" in line
    assert f"the loss is not finite for {name_of_bad_example(tmp_path, 6)};" in line
    assert "rolling back to step 5 and skipping the data since" in line
    assert got.state["progress"]["rollbacks"] == 1
    examples = (STEPS + 4) * 12
    assert got.state["next_example"] == {"epoch": examples // 50, "place": examples % 50}


def test_a_run_resumes_after_a_rollback_without_a_difference(tmp_path, poison, undescribed):
    poison([6, 7, 8])
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    train(undisturbed, *EVERY_FIVE)
    for looks in (3, 4, 5, 6):  # 4: in the middle of the bad steps
        stopped = tmp_path / str(looks)
        stopped.mkdir()
        with pytest.raises(Stopped):
            train(stopped, *EVERY_FIVE, stop=StopAt(looks))
        train(stopped, *EVERY_FIVE)
        assert_same_end(stopped, undisturbed)


def test_a_rollback_to_a_step_stopped_in_its_evaluation_repeats_the_evaluation(
    tmp_path, poison, undescribed, monkeypatch
):
    poison([11, 12, 13])
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    undisturbed.mkdir()
    stopped.mkdir()
    settings = ["checkpoint.every_epochs=null", "train.max_bad_steps=3"]
    train(undisturbed, *settings, "checkpoint.every_steps=10")
    stop = StopAt(10**9)
    evaluate = experiment_module.Experiment.evaluate

    def asked_meanwhile(self, name, next_steps):
        stop._looks = 0
        return evaluate(self, name, next_steps)

    monkeypatch.setattr(experiment_module.Experiment, "evaluate", asked_meanwhile)
    with pytest.raises(Stopped, match="at step 10"):
        train(stopped, *settings, stop=stop)
    monkeypatch.setattr(experiment_module.Experiment, "evaluate", evaluate)
    train(stopped, *settings)
    assert rows(stopped) == rows(undisturbed)


def test_too_many_rollbacks_end_the_run_and_name_the_example(tmp_path, poison):
    poison(range(6, 1000))
    said = Said()
    with pytest.raises(TrainingFailedError) as error:
        train(tmp_path, *EVERY_FIVE, "train.max_rollbacks=2", display=said)
    text = str(error.value)
    # Back to step 5, and as it fails from there at once, back to step 0. The third time the data
    # are those of steps 12 to 14, counted from 0.
    assert "steps 1 to 3 were not finite, on rank 0" in text
    assert name_of_bad_example(tmp_path, 12) in text
    aside = tmp_path / "run" / "checkpoints" / "step-00000005.set-aside-1"
    assert aside.is_dir()
    assert (
        f"the checkpoint of step 5, from which every step failed, is kept as {aside}" in said.lines
    )
    assert "was rolled back 2 time(s), which is train.max_rollbacks" in text
    # The run itself accepts no other rate, so the advice is a new run.
    assert "needs a new run: set run.dir=FOLDER, and " in text
    assert f"model.pretrained={tmp_path / 'run'} to start from the weights" in text
    assert store(tmp_path).steps() == [0]


def test_a_run_that_is_bad_from_the_first_step_goes_back_to_its_start(
    tmp_path, poison, undescribed
):
    poison([0, 1, 2])
    train(tmp_path, *EVERY_FIVE)
    reference = with_traced_graphs(tiny_config(tmp_path, *EVERY_FIVE))
    reference.train(reference.train_iterator(3), empty_train_sums(), STEPS)
    name = "vit/head/kernel"
    np.testing.assert_array_equal(
        store(tmp_path).load(STEPS).tensors["model"][name],
        reference.variables["model"][name].numpy(),
    )


def test_bad_steps_at_the_end_are_rolled_back_too(tmp_path, poison, undescribed):
    poison([17, 18, 19])
    train(tmp_path, *EVERY_FIVE)
    state = store(tmp_path).load(STEPS).state
    assert (state["progress"]["rollbacks"], state["progress"]["passed_over_steps"]) == (1, 5)
    assert [r["step"] for r in rows(tmp_path) if r["split"] == "test"] == [STEPS]


def test_a_loss_that_is_not_finite_is_bad_though_its_gradient_is(tmp_path, monkeypatch):
    # An infinite loss with a gradient of zero: what a target outside the classes could give.
    real = tf.nn.softmax_cross_entropy_with_logits
    monkeypatch.setattr(
        "pipeline.training.step.tf.nn.softmax_cross_entropy_with_logits",
        lambda labels, logits: real(labels, logits) + np.inf,
    )
    run = tiny(tmp_path)
    stretch = run.train(run.train_iterator(0), empty_train_sums(), 4)
    assert stretch.bad_steps == 4
    assert np.isfinite(stretch.sums).all()


def test_the_best_step_is_not_saved_during_bad_steps(tmp_path, poison, undescribed, monkeypatch):
    # Step 8 comes after two bad steps, and its validation would be the best.
    poison([6, 7, 8])
    accuracy = iter([0.1, 0.9, *[0.3] * 20])
    evaluate = experiment_module.Experiment.evaluate

    def better(self, name, next_steps=None):
        found = evaluate(self, name, next_steps)
        return found | {"accuracy": next(accuracy)} if name == "validation" else found

    monkeypatch.setattr(experiment_module.Experiment, "evaluate", better)
    said = Said()
    every_four = ["train.evaluate_every_epochs=null", "train.evaluate_every_steps=4"]
    train(tmp_path, *EVERY_FIVE, *every_four, display=said)
    (line,) = (line for line in said.lines if "not finite" in line)
    assert "rolling back to step 5 and skipping the data since" in line
    best = store(tmp_path).load(STEPS).state["progress"]
    assert best["best_value"][0] == 0.3


def test_a_checkpoint_from_which_every_step_fails_gives_way_to_the_one_before(
    tmp_path, undescribed, monkeypatch
):
    # The weights of step 10 are finite, and overflow in the next step.
    snapshot = experiment_module.Experiment.snapshot

    def spoilt(self, step, state):
        taken = snapshot(self, step, state)
        if step == 10:
            name = "vit/head/kernel"
            taken.tensors["model"][name] = np.full_like(taken.tensors["model"][name], 3e38)
            self.variables["model"][name].assign(taken.tensors["model"][name])
        return taken

    spoils = [spoilt]

    def once(self, step, state):
        return (spoils.pop() if step == 10 and spoils else snapshot)(self, step, state)

    monkeypatch.setattr(experiment_module.Experiment, "snapshot", once)
    said = Said()
    train(tmp_path, *EVERY_FIVE, display=said)
    lines = [line for line in said.lines if "rolling back to step" in line]
    assert [line.split("rolling back to ")[1] for line in lines] == [
        "step 10 and skipping the data since",
        "step 5 and skipping the data since",
    ]
    assert store(tmp_path).steps()[-1] == STEPS
    assert all(np.isfinite(v).all() for v in store(tmp_path).load(STEPS).tensors["model"].values())


def test_weights_that_are_not_finite_are_neither_saved_nor_the_best_also_at_the_end(
    tmp_path, monkeypatch
):
    # They become NaN in steps 10 and 20, once each.
    spoiled = [STEPS, 10]
    complete = StepActions.complete

    def spoil(self):
        if spoiled and self._state.step == spoiled[-1]:
            spoiled.pop()
            average = self._experiment.optimizer.averages["vit/head/bias"]
            average.assign(np.full(average.shape, np.nan))
        complete(self)

    monkeypatch.setattr(StepActions, "complete", spoil)
    said = Said()
    result = train(tmp_path, *EVERY_FIVE, display=said)
    assert not spoiled
    assert [line for line in said.lines if "not finite" in line] == [
        f"the weights of step {step} were not finite and were not saved; rolling back to step "
        f"{step - 5} and skipping the data since"
        for step in (10, STEPS)
    ]
    for step in store(tmp_path).steps():
        for group in store(tmp_path).load(step).tensors.values():
            assert all(np.isfinite(values).all() for values in group.values())
    assert np.isfinite(result["loss"])


def test_a_stop_during_bad_steps_keeps_the_last_good_checkpoint_and_says_so(tmp_path, poison):
    poison(range(6, 1000))
    with pytest.raises(Stopped) as stopped:
        train(tmp_path, *EVERY_FIVE, "train.max_bad_steps=50", stop=StopAt(6))
    text = str(stopped.value)
    assert "during steps that were not finite; the last saved step is 5" in text
    step = int(re.search(r"at step (\d+)", text)[1])
    assert step > 6
    assert store(tmp_path).steps()[-1] == 5


def test_a_checkpoint_from_which_the_run_fails_three_times_gives_way(tmp_path, poison, undescribed):
    poison([n for n in range(1000) if n > 5 and n % 4])  # the first step after each return is good
    said = Said()
    settings = ["train.max_rollbacks=3", "train.log_every_steps=1"]
    with pytest.raises(TrainingFailedError):
        train(tmp_path, *EVERY_FIVE, *settings, display=said)
    back = [line.split("rolling back to ")[1] for line in said.lines if "rolling back to" in line]
    assert [text.split(" and")[0] for text in back] == ["step 5", "step 5", "step 0"]
    assert any("step 5, from which the run failed three times, is kept" in line
               for line in said.lines)  # fmt: skip


def test_a_row_of_skipped_steps_only_has_no_figures(tmp_path, poison):
    poison([10, 11, 12, 13, 14])
    train(tmp_path, *EVERY_FIVE, "train.max_bad_steps=6")
    row = next(r for r in rows(tmp_path) if (r["step"], r["split"]) == (15, "train"))
    names = ("loss", "accuracy", "top_5_accuracy", "gradient_norm")
    assert [row[name] for name in names] == [None] * 4
    assert row["skipped_updates"] == 5
