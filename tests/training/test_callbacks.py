"""keras.callbacks of a user: called as `keras.Model.fit` calls them, or refused at the start."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.config import load_config
from pipeline.errors import SettingsError, Stopped
from pipeline.runtimes.single import SingleRuntime
from pipeline.training.callbacks import CallbackError, Callbacks
from pipeline.training.experiment import Experiment
from tests.runtimes.ranks import on_ranks
from tests.training import runs
from tests.training.experiments import tiny_config
from tests.training.runs import StopAt, rows, store

# These tests are of the loop, and not of how its graphs are traced.
train = partial(runs.train, fresh=False)
ROOT = Path(__file__).parent.parent.parent
calls = []
HOOKS = ["train_begin", "train_end", "epoch_begin", "epoch_end", "test_begin", "test_end"]


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


class Recorder(keras.callbacks.Callback):
    """Writes down its calls, with the epoch and the logs."""

    def set_params(self, params):
        calls.append(("set_params", params))
        super().set_params(params)


def _record(hook):
    def call(self, *arguments, logs=None):
        calls.append((hook, *arguments))

    return call


for name in HOOKS:
    setattr(Recorder, f"on_{name}", _record(name))


class StopsAfterTwo(Recorder):
    def on_epoch_end(self, epoch, logs=None):
        calls.append(("epoch_end", epoch))
        self.model.stop_training = epoch == 1


def use(*names):
    return f"train.callbacks=[{','.join(f'{__name__}:{name}' for name in names)}]"


def names_of(recorded):
    return [call[0] for call in recorded]


def test_hooks_are_called_in_the_order_of_fit_with_its_keys(tmp_path):
    train(tmp_path, use("Recorder"), "train.max_steps=11", "train.evaluate_every_steps=null")
    # 50 training examples in batches of 12: epochs end at steps 5 and 9.
    evaluation, epoch = ["test_begin", "test_end"], ["epoch_begin", "epoch_end"]
    assert names_of(calls) == [
        "set_params", "train_begin",
        "epoch_begin", *evaluation, "epoch_end",
        "epoch_begin", *evaluation, "epoch_end",
        "epoch_begin", *evaluation,  # the last step, amid an epoch
        *evaluation,  # of the test split
        "train_end",
    ]  # fmt: skip
    assert [call[:2] for call in calls if call[0] in epoch] == [
        ("epoch_begin", 0), ("epoch_end", 0), ("epoch_begin", 1), ("epoch_end", 1),
        ("epoch_begin", 2),
    ]  # fmt: skip
    assert calls[0] == ("set_params", {"epochs": 3, "steps": 5, "verbose": 0})
    metrics = {"loss", "accuracy", "top_5_accuracy"}
    by_hook = {call[0]: call[-1] for call in calls}
    assert by_hook["test_end"].keys() == metrics
    assert by_hook["epoch_end"].keys() == metrics | {f"val_{m}" for m in metrics} | {
        "learning_rate"
    }
    assert all(type(value) is float for value in by_hook["epoch_end"].values())


def test_an_epoch_s_logs_are_its_means_and_the_evaluation_in_it(tmp_path):
    settings = ["train.max_steps=20", "train.evaluate_every_steps=10", "train.log_every_steps=1"]
    train(tmp_path, use("Recorder"), *settings)
    by_split = {
        split: {row["step"]: row for row in rows(tmp_path) if row["split"] == split}
        for split in ("train", "validation")
    }
    ends = [call for call in calls if call[0] == "epoch_end"]
    last = 0
    for _, epoch, logs in ends:
        step = next(s for s in range(last + 1, 21) if by_split["train"][s]["epoch"] >= epoch + 1)
        of_epoch = [by_split["train"][s] for s in range(last + 1, step + 1)]
        for name in ("loss", "accuracy"):
            mean = np.mean([row[name] for row in of_epoch])
            assert logs[name] == pytest.approx(mean, rel=1e-6), (epoch, name)
        assert logs["learning_rate"] == pytest.approx(of_epoch[-1]["learning_rate"])
        evaluated = [s for s in by_split["validation"] if last < s <= step]
        assert [logs.get("val_loss")] == (
            [by_split["validation"][s]["loss"] for s in evaluated] or [None]
        )
        last = step
    assert len(ends) == 4
    assert sum("val_loss" in logs for *_, logs in ends) == 1


def test_logs_of_an_epoch_that_was_interrupted_are_those_of_the_whole_epoch(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    train(whole, use("Recorder"))
    expected = [call for call in calls if call[0] == "epoch_end"]
    for looks in (1, 3, 5):
        calls.clear()
        parts = tmp_path / str(looks)
        parts.mkdir()
        with pytest.raises(Stopped):
            train(parts, use("Recorder"), stop=StopAt(looks))
        train(parts, use("Recorder"))
        ends = [call for call in calls if call[0] == "epoch_end"]
        assert [epoch for _, epoch, _ in ends] == [epoch for _, epoch, _ in expected]
        for (*_, logs), (*_, other) in zip(ends, expected, strict=True):
            assert logs == pytest.approx(other, rel=1e-12)
        # Each epoch has begun before it ends, also in the second start.
        second = calls[names_of(calls).index("train_begin", 2) :]
        assert names_of(second)[1] in ("epoch_begin", "test_begin", "train_end")


def test_a_callback_may_stop_the_run_at_the_end_of_an_epoch(tmp_path):
    train(tmp_path, use("StopsAfterTwo"))
    assert [call[1] for call in calls if call[0] == "epoch_end"] == [0, 1]
    assert [call[1] for call in calls if call[0] == "epoch_begin"] == [0, 1]
    assert names_of(calls)[-1] == "train_end"


def stops_without_progress():
    return keras.callbacks.EarlyStopping("val_accuracy", min_delta=0.5, patience=2)


def test_early_stopping_counts_evaluations_also_where_not_every_epoch_has_one(tmp_path):
    # At this rate hardly anything changes: the first evaluation is the best.
    slow = ["optim.base_lr=1e-12", "optim.ema_momentum=null", "train.max_steps=100"]
    every_two = ["train.evaluate_every_steps=null", "train.evaluate_every_epochs=2"]
    train(tmp_path, use("stops_without_progress"), *slow, *every_two)
    validations = [row["epoch"] for row in rows(tmp_path) if row["split"] == "validation"]
    assert [round(epoch) for epoch in validations] == [2, 4, 6]


def unknown_monitor():
    return keras.callbacks.EarlyStopping("val_f1", mode="max")


def monitors_the_rate():
    return keras.callbacks.EarlyStopping("learning_rate")


def restores():
    return keras.callbacks.EarlyStopping(restore_best_weights=True)


def plateau():
    return keras.callbacks.ReduceLROnPlateau()


def scheduler():
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate)


def checkpoint():
    return keras.callbacks.ModelCheckpoint("x.keras")


def per_batch_function():
    return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)


class PerBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


class Predicts(keras.callbacks.Callback):
    def on_predict_end(self, logs=None):
        pass


def raises():
    raise KeyError("my key")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PerBatch", "on_train_batch_end, which is never called"),
        ("per_batch_function", "on_train_batch_end, which is never called"),
        ("Predicts", "on_predict_end, which is never called"),
        ("nothing", "has no function or class nothing"),
        ("ROOT", "has no function or class ROOT"),
        ("dict", "has no function"),
        ("raises", r"raises\(\) failed:(.|\n)*in raises(.|\n)*KeyError: 'my key'"),
        ("plateau", "ReduceLROnPlateau: (.|\n)*train.early_stopping"),
        ("scheduler", "LearningRateScheduler: (.|\n)*optim.schedule"),
        ("checkpoint", "ModelCheckpoint: (.|\n)*checkpoint.every_epochs"),
        ("restores", "restore_best_weights"),
        ("unknown_monitor", "'val_f1', which is not one of loss, accuracy"),
        ("monitors_the_rate", "'learning_rate' with mode='auto'(.|\n)*Set mode='min'"),
    ],
)
def test_callbacks_that_cannot_work_are_refused_before_the_first_step(tmp_path, name, message):
    with pytest.raises(SettingsError, match=message):
        train(tmp_path, use(name))
    assert store(tmp_path).steps() == []


@pytest.mark.parametrize("name", ["json", "json:", ":JSONDecoder"])
def test_a_name_without_module_or_factory_is_refused(tmp_path, name):
    with pytest.raises(SettingsError, match=f"must be module:name.*Received: '{name}'"):
        train(tmp_path, f"train.callbacks=['{name}']")


def test_what_is_no_callback_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"made a JSONDecoder, not a keras\.callbacks"):
        train(tmp_path, "train.callbacks=['json:JSONDecoder']")


def test_a_missing_module_is_told_from_a_module_that_imports_a_missing_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=f"no module not_there.*current folder {tmp_path}"):
        train(tmp_path, "train.callbacks=['not_there:make']")
    (tmp_path / "needs_another.py").write_text("import not_there_either\n")
    with pytest.raises(
        SettingsError, match=r"(?s)importing needs_another failed.*not_there_either"
    ):
        train(tmp_path, "train.callbacks=['needs_another:make']")


@pytest.mark.parametrize("on_path", [True, False])
def test_importing_a_callback_leaves_the_search_path_as_it_was(tmp_path, monkeypatch, on_path):
    monkeypatch.chdir(tmp_path)
    name = f"searched_callbacks_{on_path}".lower()
    (tmp_path / f"{name}.py").write_text("from keras.callbacks import Callback\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)] * on_path + sys.path)
    before = list(sys.path)
    Callbacks([f"{name}:Callback"], SingleRuntime("CPU:0"))
    assert sys.path == before


def test_one_name_needs_no_brackets(tmp_path):
    config = tiny_config(tmp_path, f"train.callbacks={__name__}:Recorder")
    assert config.train.callbacks == (f"{__name__}:Recorder",)
    recipe = tmp_path / "one.yaml"
    recipe.write_text(f"train: {{callbacks: '{__name__}:Recorder'}}\n")
    assert load_config(recipe, []).train.callbacks == (f"{__name__}:Recorder",)


class Fails(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 1 / epoch


def test_an_error_in_a_callback_ends_the_run_with_its_traceback_and_a_checkpoint(tmp_path):
    with pytest.raises(CallbackError, match=r"(?s)raised an error in on_epoch_end.*test_callbacks"):
        train(tmp_path, use("Fails"), "checkpoint.every_steps=1")
    assert store(tmp_path).steps()[-1] > 0


class Changes(keras.callbacks.Callback):
    """Changes weights in every hook, in one of the ways there are."""

    def change(self, weights):
        raise NotImplementedError

    def on_test_end(self, logs=None):
        self.change(self.model.weights)

    on_train_begin = on_train_end = on_test_begin = on_test_end

    def on_epoch_end(self, epoch, logs=None):
        self.change(self.model.weights)

    on_epoch_begin = on_epoch_end


class Assigns(Changes):
    def change(self, weights):
        weights[0].assign(weights[0] * 0.5)


class AddsInPlace(Changes):
    def change(self, weights):
        weights[1].value.assign_add(np.ones(2, np.float32))


class SetsOneNumber(Changes):
    def change(self, weights):
        weights[0].value.scatter_nd_update([[2, 1]], [7.0])


class SwapsRows(Changes):
    def change(self, weights):
        self.model.set_weights([weights[0].numpy()[::-1], weights[1].numpy()])


class Restores(Changes):
    def change(self, weights):
        before = self.model.get_weights()
        weights[0].assign(weights[0] + 1.0)
        weights[1].value.assign_add(np.ones(2, np.float32))
        self.model.set_weights(before)


def call_hook(name, hook, runtime):
    """Calls one hook of a callback with a model of two weights, one of which has a NaN."""
    callbacks = Callbacks([f"{__name__}:{name}"], runtime)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.set_weights([np.arange(6, dtype=np.float32).reshape(3, 2), np.float32([np.nan, 0])])
    callbacks.attach(model, 1, 1, True)
    epoch, logs = [0] * ("epoch" in hook), [{}] * hook.endswith("end")
    getattr(callbacks, hook)(*epoch, *logs)
    return "accepted"


@pytest.mark.parametrize("name", ["Assigns", "AddsInPlace", "SetsOneNumber", "SwapsRows"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_callback_that_changes_weights_ends_all_of_several_processes(name, hook):
    found = on_ranks(lambda runtime: call_hook(name, hook, runtime), 2)
    assert [one.exit_code for one in found] == [1, 1]
    for one in found:
        assert f"{name}' changed the model's weights in on_{hook}" in str(one)
        assert "or train with a single process" in str(one)
    assert call_hook(name, hook, SingleRuntime("CPU:0")) == "accepted"


@pytest.mark.parametrize("name", ["Restores", "Recorder"])
def test_a_callback_that_leaves_the_weights_as_they_were_is_accepted(name):
    assert on_ranks(lambda runtime: call_hook(name, "test_end", runtime), 2) == ["accepted"] * 2


def test_without_callbacks_an_epoch_s_end_needs_no_reduction(tmp_path, monkeypatch):
    reduced = []
    reduce_sums = Experiment.reduce_sums
    monkeypatch.setattr(
        Experiment, "reduce_sums", lambda *a: (reduced.append(a), reduce_sums(*a))[1]
    )
    train(tmp_path, "train.log_every_steps=20", "checkpoint.every_epochs=null")
    without = len(reduced)
    reduced.clear()
    other = tmp_path / "other"
    other.mkdir()
    train(other, use("Recorder"), "train.log_every_steps=20", "checkpoint.every_epochs=null")
    assert len(reduced) - without == 4  # epochs that end


@pytest.mark.processes
def test_a_module_in_the_current_folder_is_found_and_shadows_nothing(tmp_path):
    (tmp_path / "my_callbacks.py").write_text(
        "import sys\n"
        "import my_helper\n"
        "import keras\n"
        "class Shout(keras.callbacks.Callback):\n"
        "    def on_train_begin(self, logs=None):\n"
        "        print('it trains', my_helper.NUMBER, file=sys.stderr)\n"
    )
    (tmp_path / "my_helper.py").write_text("NUMBER = 42\n")
    for name in ("jobs", "numpy", "keras", "json", "pipeline", "random", "sklearn"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    words = ["train", "digits", "train.max_steps=1", "monitor.report=false"]
    # -P: as the installed command, which does not search the current folder.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jobs.cli", *words, "train.callbacks=my_callbacks:Shout"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "it trains 42" in done.stderr
