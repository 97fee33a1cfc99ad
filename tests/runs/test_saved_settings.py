"""A run's config.yaml may be another person's: it describes the model, and chooses nothing else."""

import os

import pytest

from pipeline.config import Config, all_settings, dump_config, load_config, value_of
from pipeline.errors import DataError, SettingsError
from pipeline.recipes import RECIPES
from pipeline.runs.folder import RunFolder
from pipeline.runs.saved_settings import ignored_data_path, is_own, is_taken, read_settings

# Every setting that a run cannot choose. A new setting is either here or describes the model.
OWN = """
run.dir data.path data.index_path data.allow_changes data.links_out data.max_pixels data.threads
model.pretrained train.max_time_s train.log_every_steps train.evaluate_every_epochs
train.evaluate_every_steps train.best_by train.early_stopping train.recompute train.xla
train.max_bad_steps train.max_rollbacks train.hang_timeout_s train.compile_timeout_s
train.callbacks distribute.runtime distribute.device distribute.compression
distribute.elastic_nccl distribute.cpu_devices distribute.intra_op_threads
checkpoint.every_steps checkpoint.every_s checkpoint.every_epochs
checkpoint.keep checkpoint.keep_every_steps checkpoint.grace_s
monitor.report monitor.pictures monitor.profile_steps monitor.peak_tflops
""".split()  # noqa: SIM905

FORGED = """
data: {source: image_folder, path: /somewhere, index_path: /home/user, links_out: true,
       max_pixels: 1000000000, threads: 1000, image_size: 48, on_bad_image: skip}
model: {variant: digits, pretrained: /home/user/file}
train: {callbacks: [evil:make], precision: mixed_bfloat16, max_time_s: 1, hang_timeout_s: 1}
distribute: {device: gpu, runtime: horovod, cpu_devices: 64}
"""


def give_away(path, monkeypatch):
    """Makes the user another one than the owner of the files."""
    if os.geteuid() == 0:
        for one in (path, *path.rglob("*")):
            os.chown(one, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(FORGED)
    return RunFolder(tmp_path / "run")


def test_each_setting_either_describes_the_model_or_is_not_taken():
    assert [s.key for s in all_settings() if not is_taken(s.key)] == OWN


def test_what_is_taken_is_as_recorded_and_all_else_has_its_default(run, monkeypatch):
    give_away(run.path, monkeypatch)
    config, recorded = read_settings(run), run.config()
    for setting in all_settings():
        source = recorded if is_taken(setting.key) else Config()
        assert value_of(config, setting.key) == value_of(source, setting.key), setting.key
    assert (config.data.image_size, config.model.variant) == (48, "digits")


def test_a_recipe_that_was_trained_is_taken_whole(tmp_path):
    for recipe in RECIPES.glob("*.yaml"):
        config = load_config(recipe)
        path = tmp_path / recipe.stem
        path.mkdir()
        (path / "config.yaml").write_text(dump_config(config))
        taken = read_settings(RunFolder(path))
        assert taken.model == config.model.model_copy(update={"pretrained": None})
        assert taken.optim == config.optim


def test_the_place_of_the_data_is_taken_from_a_run_of_the_user_alone(run, monkeypatch):
    assert is_own(run)
    assert read_settings(run).data.path == "/somewhere"
    (run.path / "config.yaml").chmod(0o666)
    assert not is_own(run)
    (run.path / "config.yaml").chmod(0o644)
    give_away(run.path, monkeypatch)
    assert read_settings(run).data.path is None
    assert ignored_data_path(run) == "/somewhere"


def test_settings_of_the_command_line_are_used(run):
    given = ["data.max_pixels=1000", "data.links_out=true", "data.path=/data"]
    data = read_settings(run, given).data
    assert (data.max_pixels, data.links_out, data.path) == (1000, True, "/data")


def test_what_is_not_taken_is_said_with_how_to_give_it(run, caplog):
    caplog.set_level("INFO", "pipeline")
    read_settings(run)
    assert "--set data.links_out=true" in caplog.text
    assert "--set data.max_pixels=1000000000" in caplog.text


def test_settings_of_a_run_inherit_from_no_other_file(run, tmp_path):
    (tmp_path / "other.yaml").write_text("seed: 7\n")
    (run.path / "config.yaml").write_text("base: ../other.yaml\n")
    for read in (run.config, lambda: read_settings(run)):
        with pytest.raises(SettingsError, match=r"config\.yaml, line 1: .* not have a `base:`"):
            read()


@pytest.mark.parametrize("text", ["train.callbacks=evil:make", "model.width=8", "run.dir=x", "x"])
def test_only_places_limits_and_devices_can_be_given(run, text):
    with pytest.raises(SettingsError, match=r"--set accepts .*Received: "):
        read_settings(run, [text])


@pytest.mark.parametrize(
    "facts",
    [
        {"classes": "abc"}, {"classes": [1]}, {"classes": []},
        {"classes": ["a"], "examples": []}, {"classes": ["a"], "examples": {"train": -1}},
        {"classes": ["a"], "examples": {"train": 1e9}},
        {"classes": ["a"], "mean": [0.5]}, {"classes": ["a"], "std": [0.5, 0.5, "x"]},
        {"classes": ["a"], "mean": [0.5, 0.5, None]}, {"classes": ["a"], "std": [1, 1, 0]},
        {"classes": ["a"], "labels": {"first": 7}}, {"classes": ["a"], "labels": []},
        {"classes": ["a"], "fingerprints": {"train": 1}},
    ],
)  # fmt: skip
def test_forged_facts_of_the_data_are_one_error(run, facts):
    run.begin(facts, {})
    with pytest.raises(DataError, match=r"dataset\.json is damaged: "):
        run.dataset()


@pytest.mark.parametrize(
    "outcome",
    [
        {"outcome": "won"}, {"outcome": 1}, {"outcome": "done", "result": 3},
        {"outcome": "done", "result": {"split": "test", "accuracy": "x", "loss": 1}},
        {"outcome": "done", "result": {"split": "test", "loss": 1}},
        {"outcome": "failed", "message": 3}, {"outcome": "failed", "exit_code": "x"},
    ],
)  # fmt: skip
def test_a_forged_outcome_is_one_error(run, outcome):
    run.write_outcome(outcome)
    with pytest.raises(DataError, match=r"outcome\.json is damaged: "):
        run.outcome()
