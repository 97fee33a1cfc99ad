"""`vit train --dry-run` refuses what `vit train` refuses because of the run folder."""

import json
import subprocess

import numpy as np
import pytest

from jobs.cli import main
from pipeline.config import Config, dump_config, load_config
from pipeline.errors import PipelineError
from pipeline.recipes import find_recipe
from pipeline.runs import folder as run_folder
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.runs.folder import RunFolder


def content(folder):
    """Every file and folder with its times and bytes."""
    return {
        path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in (folder, *folder.rglob("*"))
    }


def begun(path, step=5, **settings):
    path.mkdir()
    (path / "config.yaml").write_text(dump_config(Config(**settings)))
    CheckpointStore(path / "checkpoints").save(Snapshot(step, {"model": {"w": np.ones(2)}}, {}))
    return RunFolder(path)


def a_file_in_the_way(path):
    path.write_text("")


def a_broken_link(path):
    path.symlink_to(path.parent / "gone")


def other_settings(path):
    begun(path, seed=7)


def damaged_settings(path):
    begun(path)
    (path / "config.yaml").write_bytes(b"\0" * 99)


def a_damaged_outcome(path):
    begun(path)
    (path / "outcome.json").write_bytes(b"\0" * 99)


def other_data(path):
    begun(path, data={"path": "elsewhere", "source": "cifar10"}).write_outcome(
        {"outcome": "done", "result": {}}
    )


def not_writable(path):
    path.mkdir()


LEFT = [a_file_in_the_way, a_broken_link, other_settings, damaged_settings, a_damaged_outcome,
        other_data, not_writable]  # fmt: skip


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
def test_what_a_start_refuses_a_dry_run_refuses_alike(tmp_path, monkeypatch, leave):
    path = tmp_path / "run"
    leave(path)
    config = Config(data={"source": "cifar10"}) if leave is other_data else Config()
    if leave is not_writable:  # to root, who may write everywhere
        monkeypatch.setattr(run_folder.os, "access", lambda place, mode: False)
    before = content(tmp_path)
    with pytest.raises(PipelineError) as dry:
        RunFolder(path).check_open(config)
    assert content(tmp_path) == before
    folder = RunFolder(path)
    try:
        with pytest.raises(PipelineError) as real:
            folder.open(config, print)
    finally:
        folder.close()
    assert str(dry.value) == str(real.value)
    assert dry.value.exit_code == real.value.exit_code in (2, 3)


@pytest.mark.processes
def test_a_folder_in_use_and_a_read_only_one_are_refused(tmp_path, small_disk):
    first = RunFolder(tmp_path / "run")
    first.open(Config(), print)
    try:
        before = content(tmp_path).keys()
        for refuse in (RunFolder.check_open, lambda f, config: f.open(config, print)):
            with pytest.raises(PipelineError, match=r"another process is training in .*process \d"):
                refuse(RunFolder(tmp_path / "run"), Config())
            assert content(tmp_path).keys() == before  # its lock's file changes with its beat
    finally:
        first.close()
    RunFolder(tmp_path / "run").check_open(Config())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(PipelineError, match="Read-only file system"):
        RunFolder(small_disk / "run").check_open(Config())


def test_a_folder_that_is_not_there_yet_is_not_made(tmp_path):
    RunFolder(tmp_path / "a/b/run").check_open(Config())
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_reads_the_checkpoints_and_the_data_record(tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["train", "digits", "--dry-run", f"run.dir={run}", "train.max_steps=30"]
    assert main(arguments) == 0
    assert not run.exists()
    run.mkdir()
    config = load_config(find_recipe("digits"), arguments[3:])
    (run / "config.yaml").write_text(dump_config(config))
    store = CheckpointStore(run / "checkpoints")
    for step in (10, 20):
        store.save(Snapshot(step, {"model": {"w": np.ones(2)}}, {}))
    damage(store, 20)
    before = content(run)
    capsys.readouterr()
    assert main(arguments) == 0
    err = capsys.readouterr().err
    assert "step-00000020 is damaged" in err
    assert f"{run} holds this run: vit train resumes from step 10" in err
    damage(store, 10)
    assert main(arguments) == 1
    assert f"every checkpoint in {run}/checkpoints is damaged" in capsys.readouterr().err
    facts = {"classes": list("abcdefghij"), "examples": {"train": 1}}
    (run / "dataset.json").write_text(json.dumps(facts))
    assert main(arguments) == 3
    assert "the data set has other classes" in capsys.readouterr().err
    assert content(run).keys() - before.keys() == {run / "dataset.json"}
    (run / "outcome.json").write_text('{"outcome": "done", "result": {}}')
    assert main(arguments) == 0
    assert (
        f"{run} holds this run, which is finished: vit train prints its result"
        in capsys.readouterr().err
    )


def damage(store, step):
    file = store.path(step) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
