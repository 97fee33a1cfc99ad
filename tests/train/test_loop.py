"""The loop on a tiny synthetic run: what it writes, and that an interruption leaves no trace."""

import json

import keras
import numpy as np
import pytest

from pipeline.checkpoint.store import CheckpointStore
from pipeline.errors import SettingsError, Stopped
from pipeline.monitor.progress import ProgressDisplay
from pipeline.train.loop import fit
from pipeline.train.run_folder import RunFolder
from pipeline.train.stop import StopRequest
from tests.train.experiments import tiny, tiny_config


class StopAt(StopRequest):
    """Asks to stop once it was looked at `looks` times."""

    def __init__(self, looks):
        super().__init__()
        self._looks = looks

    @property
    def reason(self):
        self._looks -= 1
        return "test" if self._looks < 0 else None


def train(folder, *settings, stop=None):
    """Trains the tiny run in `folder` to its end, or to the stop."""
    config = tiny_config(folder, *settings)
    run = RunFolder(config.run_dir)
    run.open(config, print)
    try:
        experiment = tiny(folder, *settings)
        display = ProgressDisplay(experiment.total_steps, experiment.steps_per_epoch, False)
        return fit(experiment, run, display, stop or StopRequest())
    finally:
        run.close()


def rows(folder):
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    # How fast it went is not part of what is trained.
    speed = ("examples_per_second", "checkpoint_s")
    return [{k: v for k, v in json.loads(line).items() if k not in speed} for line in lines]


def final(folder):
    return CheckpointStore(folder / "run" / "checkpoints").load(20).tensors


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder)
    return folder


def test_rows_hold_what_scripts_rely_on_each_step_once(undisturbed):
    got = rows(undisturbed)
    assert [(r["step"], r["split"]) for r in got] == [
        (5, "train"),
        (10, "train"),
        (10, "validation"),
        (15, "train"),
        (20, "train"),
        (20, "validation"),
        (20, "test"),
    ]
    common = {"step", "epoch", "split", "loss", "accuracy", "top_5_accuracy"}
    for row in got:
        assert common <= set(row)
    assert {"learning_rate", "gradient_norm", "input_wait_fraction"} <= set(got[0])
    assert got[0]["loss"] > got[4]["loss"]


@pytest.mark.parametrize("looks", [1, 3, 4])
def test_stopping_and_starting_again_ends_bit_for_bit_as_if_nothing_had_happened(
    tmp_path, undisturbed, looks
):
    with pytest.raises(Stopped, match="Give the same command"):
        train(tmp_path, stop=StopAt(looks))
    train(tmp_path)
    assert rows(tmp_path) == rows(undisturbed)
    for name, arrays in final(undisturbed).items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(final(tmp_path)[name][key], array, err_msg=key)


def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(tmp_path, undisturbed):
    train(tmp_path)
    (tmp_path / "run/checkpoints/step-00000020/model.safetensors").write_bytes(b"")
    train(tmp_path)
    assert rows(tmp_path) == rows(undisturbed)
    np.testing.assert_array_equal(
        final(tmp_path)["model"]["vit/head/kernel"], final(undisturbed)["model"]["vit/head/kernel"]
    )


def test_the_test_split_sees_the_weights_that_were_best_on_validation(tmp_path):
    # A rate that ruins the weights after a good start makes the first evaluation the best.
    train(
        tmp_path,
        "optim.base_lr=30",
        "optim.clip_norm=null",
        "optim.ema_momentum=null",
        "optim.schedule=constant",
        "train.evaluate_every_steps=1",
        "checkpoint.keep=1",
    )
    by_split = {s: [r for r in rows(tmp_path) if r["split"] == s] for s in ("validation", "test")}
    best = max(by_split["validation"], key=lambda r: (r["accuracy"], -r["loss"]))
    assert by_split["test"][0]["weights_of_step"] == best["step"] < 20
    experiment = tiny(tmp_path, "optim.base_lr=30", "optim.ema_momentum=null")
    experiment.restore(CheckpointStore(tmp_path / "run/checkpoints").load(best["step"]))
    assert experiment.evaluate("test")["loss"] == by_split["test"][0]["loss"]


def test_early_stopping_counts_evaluations_without_a_better_one(tmp_path):
    train(
        tmp_path,
        "optim.base_lr=1e-12",
        "train.evaluate_every_steps=2",
        "train.early_stopping=2",
        "optim.ema_momentum=null",
    )
    steps = [r["step"] for r in rows(tmp_path) if r["split"] == "validation"]
    assert steps == [2, 4, 6]
    assert rows(tmp_path)[-1]["split"] == "test"


class Recorder(keras.callbacks.Callback):
    """Writes down its calls, and asks to stop after the second epoch."""

    calls: list = []  # noqa: RUF012

    def on_train_begin(self, logs=None):
        self.calls.append("train_begin")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch}")
        self.model.stop_training = epoch == 1

    def on_test_end(self, logs=None):
        self.calls.append(f"test at {logs['step']}")

    def on_train_end(self, logs=None):
        self.calls.append("train_end")


class PerBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


def test_callbacks_are_called_and_may_stop_the_run(tmp_path):
    Recorder.calls.clear()
    train(tmp_path, f"train.callbacks=['{__name__}:Recorder']", "train.evaluate_every_steps=4")
    # 45 or so training examples in batches of 12: epochs end at steps 4 and 8.
    assert Recorder.calls[:3] == ["train_begin", "test at 4", "epoch 0"]
    assert Recorder.calls[-1] == "train_end"
    assert "epoch 1" in Recorder.calls
    assert "epoch 2" not in Recorder.calls


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PerBatch", "on_train_batch_end, which is never called"),
        ("nothing", "cannot make"),
        ("json", "not a keras.callbacks.Callback|cannot make"),
    ],
)
def test_callbacks_that_cannot_work_are_refused(tmp_path, name, message):
    with pytest.raises(SettingsError, match=message):
        train(tmp_path, f"train.callbacks=['{__name__}:{name}']")


def test_other_settings_in_the_same_folder_are_refused_and_shown(tmp_path, undisturbed):
    config = tiny_config(undisturbed, "seed=4")
    with pytest.raises(SettingsError, match="seed: 3 -> 4"):
        RunFolder(config.run_dir).check(config)
    RunFolder(config.run_dir).check(tiny_config(undisturbed, "train.log_every_steps=7"))


def test_two_jobs_on_one_folder_refuse_each_other(tmp_path):
    config = tiny_config(tmp_path)
    first, second = RunFolder(config.run_dir), RunFolder(config.run_dir)
    first.open(config, print)
    with pytest.raises(SettingsError, match="another process"):
        second.open(config, print)
    first.close()
    second.open(config, print)
    second.close()
