"""The loop on a tiny synthetic run: what it writes, and that an interruption leaves no trace."""

import json
import shutil
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from pipeline.errors import DataError, SettingsError, Stopped
from pipeline.monitor.progress import ProgressDisplay
from pipeline.runs.folder import RunFolder
from pipeline.training import data_opening
from pipeline.training.assembly import build
from pipeline.training.best_weights import best_snapshot
from pipeline.training.experiment import Experiment
from pipeline.training.loop import fit
from pipeline.training.speed import StepTimer
from pipeline.training.starting_weights import load_starting_weights
from pipeline.training.stop_request import StopRequest
from tests.runtimes.ranks import on_ranks
from tests.training import runs
from tests.training.experiments import tiny, tiny_config
from tests.training.runs import STEPS, StopAt, assert_same_end, rows, store

# These tests are of the loop, and not of how its graphs are traced.
train = partial(runs.train, fresh=False)


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
    assert {"learning_rate", "gradient_norm"} <= set(got[0])
    first = json.loads((undisturbed / "run/metrics.jsonl").read_text().splitlines()[0])
    assert {"examples_per_second", "input_wait_fraction"} <= set(first)
    assert first["all_reduce_wait_s"] is None  # one device sums nothing
    assert got[0]["loss"] > got[4]["loss"]


def test_a_run_after_a_deterministic_one_in_the_same_process_measures_its_times(tmp_path):
    for name in ("true", "false"):
        folder = tmp_path / name
        folder.mkdir()
        # Operations that read the clock fail where operations are deterministic.
        train(folder, f"train.deterministic={name}", "train.max_steps=2")
    assert (tmp_path / "false/run/checkpoints/step-00000002").is_dir()


# It looks before each stretch of steps: before the first step, amid a row, at a row's end, at an
# epoch's end, and before and after the evaluation at step 10.
@pytest.mark.parametrize("looks", [0, 3, 4, 5, 6, 8])
def test_stopping_and_starting_again_ends_bit_for_bit_as_if_nothing_had_happened(
    tmp_path, undisturbed, looks
):
    with pytest.raises(Stopped, match="Run the same command"):
        train(tmp_path, stop=StopAt(looks))
    # Once as in a process of its own; what a stop leaves behind does not depend on who traces.
    train(tmp_path, fresh=looks == 4)
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_request_during_an_evaluation_stops_it_and_it_is_done_again(
    tmp_path, undisturbed, split, monkeypatch
):
    stop = StopAt(10**9)
    evaluate = Experiment.evaluate

    def asked_meanwhile(self, name, next_steps):
        if name == split:
            stop._looks = 1  # one stretch of batches is done, and the next is not
        return evaluate(self, name, next_steps)

    monkeypatch.setattr(Experiment, "evaluate", asked_meanwhile)
    monkeypatch.setattr(StepTimer, "steps_per_call", lambda clock: 1)
    with pytest.raises(Stopped, match="at step 10" if split == "validation" else "at step 20"):
        train(tmp_path, stop=stop)
    assert split not in {row["split"] for row in rows(tmp_path)}
    monkeypatch.undo()
    train(tmp_path)
    assert_same_end(tmp_path, undisturbed)


def test_a_file_named_stop_stops_the_run_and_is_gone(tmp_path, monkeypatch):
    stretch, done = Experiment.train, []

    def asked_meanwhile(self, *arguments):
        done.append((tmp_path / "run/stop").touch())
        return stretch(self, *arguments)

    monkeypatch.setattr(Experiment, "train", asked_meanwhile)
    with pytest.raises(Stopped, match="stopped by the file `stop` at step 1,"):
        train(tmp_path)
    assert not (tmp_path / "run/stop").exists()
    assert len(done) == 1


def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(tmp_path, undisturbed):
    train(tmp_path)
    (tmp_path / "run/checkpoints/step-00000020/model.safetensors").write_bytes(b"")
    train(tmp_path)
    assert_same_end(tmp_path, undisturbed)


open_source = data_opening.open_source


def open_without_test_split(*arguments):
    """One function, so that runs without a test split share their graphs."""
    source = open_source(*arguments)
    return replace(source, splits={k: v for k, v in source.splits.items() if k != "test"})


def without_test_split(monkeypatch):
    """Makes the tiny run one of a data set that has no test images."""
    monkeypatch.setattr(data_opening, "open_source", open_without_test_split)


def test_a_run_that_ended_behind_its_last_checkpoint_says_its_result_again(tmp_path, monkeypatch):
    without_test_split(monkeypatch)
    result = train(tmp_path)
    assert (result["split"], result["step"]) == ("validation", STEPS)
    assert train(tmp_path) == json.loads(json.dumps(result))


def fit_on_two_ranks(folder, *settings):
    """What the loop returns or raises on each of two ranks that start in the run's folder."""
    config = tiny_config(folder, *settings)
    run = RunFolder(config.run_dir)
    run.open(config, print)
    try:
        return on_ranks(
            lambda runtime: fit(
                experiment := build(config, runtime),
                RunFolder(config.run_dir) if runtime.rank else run,
                ProgressDisplay(experiment.total_steps, experiment.steps_per_epoch, False),
                StopRequest(),
            ),
            2,
        )
    finally:
        run.close()


def test_with_nothing_left_to_train_all_ranks_return_the_result_of_the_run(tmp_path, monkeypatch):
    # The process was killed after the last checkpoint and before it recorded the outcome.
    without_test_split(monkeypatch)
    result = json.loads(json.dumps(train(tmp_path)))
    assert (result["split"], result["step"]) == ("validation", STEPS)
    assert fit_on_two_ranks(tmp_path) == [result, result]


@pytest.mark.parametrize("start", [lambda *words: [train(*words)], fit_on_two_ranks])
def test_a_run_without_rows_and_with_nothing_left_to_train_has_an_empty_result(
    tmp_path, monkeypatch, start
):
    without_test_split(monkeypatch)
    train(tmp_path)
    (tmp_path / "run/metrics.jsonl").unlink()
    assert all(result == {} for result in start(tmp_path))


def test_the_newest_weights_are_evaluated_if_the_best_checkpoint_is_damaged(tmp_path):
    settings = ["optim.base_lr=30", "optim.clip_norm=null", "optim.ema_momentum=null",
                "optim.schedule=constant", "train.evaluate_every_steps=1"]  # fmt: skip
    best = train(tmp_path, *settings)["weights_of_step"]
    assert best < STEPS - 1
    (store(tmp_path).path(best) / "model.safetensors").write_bytes(b"")
    row = train(tmp_path, *settings)
    assert row["weights_of_step"] == STEPS
    assert best_snapshot(RunFolder(tmp_path / "run")).step == STEPS


def test_checkpoints_say_where_the_run_stands_and_what_made_them(undisturbed):
    state = store(undisturbed).load(STEPS).state
    # 50 training examples in batches of 12.
    assert state["next_example"] == {"epoch": 12 * STEPS // 50, "place": 12 * STEPS % 50}
    assert state["epoch"] == pytest.approx(12 * STEPS / 50)
    assert state["seed"] == 3
    assert (state["world_size"], state["runtime"]) == (1, "single")
    assert state["settings"]["optim"]["clip_norm"] == 0.5
    assert set(state["versions"]) == {"vit-pipeline", "keras", "numpy", "python", "tensorflow"}
    assert state["progress"]["best_step"] in (10, 20)


def test_checkpoints_come_by_steps_epochs_and_time_and_some_are_kept_for_good(tmp_path):
    settings = ["checkpoint.every_steps=4", "checkpoint.every_epochs=null"]
    train(tmp_path, *settings, "checkpoint.keep_every_steps=8", "checkpoint.keep=1")
    best = store(tmp_path).newest(print).state["progress"]["best_step"]
    assert store(tmp_path).steps() == sorted({8, 16, 20, best})


def test_checkpoints_come_by_time(tmp_path, monkeypatch):
    stretch = Experiment.train

    def slow(self, iterator, sums, steps, bad_steps):
        time.sleep(0.06)
        return stretch(self, iterator, sums, 1, bad_steps)

    monkeypatch.setattr(Experiment, "train", slow)
    settings = ["train.evaluate_every_steps=1000", "checkpoint.every_epochs=null"]
    train(tmp_path, *settings, "checkpoint.every_s=0.05", "checkpoint.keep=100")
    assert store(tmp_path).steps() == list(range(21))


def test_a_row_has_the_time_that_checkpoints_blocked_training(undisturbed):
    lines = (undisturbed / "run/metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["checkpoint_s"] for line in lines if '"train"' in line]
    assert all(s >= 0 for s in seconds)
    assert sum(seconds) > 0


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_run_goes_on_in_another_precision(tmp_path, precision):
    with pytest.raises(Stopped):
        train(tmp_path, stop=StopAt(3))
    step = store(tmp_path).steps()[-1]
    assert 0 < step < STEPS
    train(tmp_path, f"train.precision={precision}", "train.deterministic=true")
    assert store(tmp_path).steps()[-1] == STEPS
    # And back: float16's scale is in the checkpoint and not in the run.
    (tmp_path / f"run/checkpoints/step-{STEPS:08d}/manifest.json").unlink()
    train(tmp_path)
    assert store(tmp_path).steps()[-1] == STEPS


def test_a_run_is_over_when_its_data_set_shrank_so_far_that_it_has_done_all_steps(
    tmp_path, monkeypatch
):
    settings = ["train.max_steps=null", "train.epochs=4"]  # 17 steps of 12 of 50 examples
    with pytest.raises(Stopped):
        train(tmp_path, *settings, stop=StopAt(6))
    step = store(tmp_path).steps()[-1]
    assert step > 7
    real = data_opening.open_source

    def open_fewer(*arguments):
        source = real(*arguments)
        train_split = source.splits["train"]
        few = train_split.take(np.arange(20), train_split.title)  # 7 steps
        return replace(source, splits={**source.splits, "train": few})

    monkeypatch.setattr(data_opening, "open_source", open_fewer)
    with pytest.raises(DataError, match=r"train: 50 images -> 20 images[\s\S]*allow_changes=true"):
        train(tmp_path, *settings)
    result = train(tmp_path, *settings, "data.allow_changes=true")
    assert (result["split"], result["step"]) == ("test", step)


def test_a_new_run_starts_from_the_weights_of_another(tmp_path, undisturbed):
    source = undisturbed / "run"
    settings = [f"model.pretrained={source}", "train.max_steps=1", "optim.base_lr=1e-30"]
    train(tmp_path, *settings)
    best = store(undisturbed).newest(print).state["progress"]["best_step"]
    expected = store(undisturbed).load(best).tensors["average"]  # what validation saw
    for group in ("model", "average"):
        got = store(tmp_path).load(1).tensors[group]
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-6, err_msg=name)
    train(tmp_path, *settings)  # goes on with its own


def test_weights_for_other_classes_are_taken_without_the_head(tmp_path, undisturbed):
    source = undisturbed / "run"
    settings = [f"model.pretrained={source}", "train.max_steps=1", "optim.base_lr=1e-30"]
    train(tmp_path, *settings, "data.num_classes=7")
    got = store(tmp_path).load(1).tensors["model"]
    best = store(undisturbed).newest(print).state["progress"]["best_step"]
    name = "vit/block_0/mlp/hidden/kernel"
    name = name if name in got else next(n for n in got if n.startswith("vit/block_0"))
    np.testing.assert_allclose(got[name], store(undisturbed).load(best).tensors["average"][name])
    assert got["vit/head/kernel"].shape[1] == 7


@pytest.mark.parametrize("classes", ["as they are", "in another order", "renamed"])
def test_the_head_of_another_run_is_used_only_for_the_same_classes_in_the_same_order(
    tmp_path, undisturbed, classes
):
    source = shutil.copytree(undisturbed / "run", tmp_path / "source")
    facts = json.loads((source / "dataset.json").read_text())
    names = {
        "as they are": facts["classes"],
        "in another order": facts["classes"][::-1],
        "renamed": [*facts["classes"][:-1], "other"],
    }[classes]
    (source / "dataset.json").write_text(json.dumps(facts | {"classes": names}))
    experiment = tiny(tmp_path)
    text = load_starting_weights(experiment, str(source))
    head = next(v for v in experiment.model.variables if v.path == "vit/head/kernel").numpy()
    best = store(undisturbed).newest(print).state["progress"]["best_step"]
    learned = store(undisturbed).load(best).tensors["average"]["vit/head/kernel"]
    same = classes == "as they are"
    assert np.array_equal(head, learned) == same
    assert np.any(head) == same  # a new one begins with zeros
    assert ("its classifier is not used" in text) != same
    assert "another data set" not in text


def test_weights_of_a_run_on_another_data_set_are_used_and_the_difference_is_said(
    tmp_path, undisturbed
):
    source = shutil.copytree(undisturbed / "run", tmp_path / "source")
    facts = json.loads((source / "dataset.json").read_text())
    count = facts["examples"]["train"]
    facts["examples"]["train"] = count + 1
    facts["fingerprints"]["validation"] = "0" * 32
    facts["mean"], facts["std"] = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    (source / "dataset.json").write_text(json.dumps(facts))
    text = load_starting_weights(tiny(tmp_path), str(source))
    assert "which was trained on another data set (train: " in text
    assert f"{count + 1} images -> {count} images; validation: " in text
    assert "its classifier is used" in text
    assert "it was trained on pixels normalized by mean 0.485 0.456 0.406 and" in text
    assert "data.normalize=imagenet" in text
    assert len(text.splitlines()) == 1


def test_weights_of_another_network_are_refused_by_name(tmp_path, undisturbed):
    with pytest.raises(
        SettingsError, match=r"vit/.*: shape \(.*\) in the checkpoint, \(.*\) expected"
    ):
        train(tmp_path, f"model.pretrained={undisturbed / 'run'}", "model.width=32")


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
    experiment.restore(store(tmp_path).load(best["step"]))
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
