"""Attacks by a run folder of somebody else: no file outside of it is written or deleted."""

import os
import stat

import numpy as np
import pytest

from pipeline.config import Config
from pipeline.errors import SettingsError
from pipeline.monitor.tensorboard import TensorBoardWriter
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointError, CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.runs.links import check_links
from pipeline.runs.lock import RunLock
from pipeline.runs.metrics_file import MetricsFile

EVENTS = "events.out.tfevents.1700000000.0"


@pytest.fixture
def home(tmp_path):
    """The user's files, none of which may change; `run` beside them is somebody else's."""
    (tmp_path / "run").mkdir()
    home = tmp_path / "home"
    for name in ("bashrc", f"curves/train/{EVENTS}", f"curves/report/{EVENTS}", "kept/step.txt"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("precious")
    yield home
    found = {p.relative_to(home): p.read_text() for p in home.rglob("*") if p.is_file()}
    assert len(found) == 4
    assert set(found.values()) == {"precious"}


@pytest.fixture
def opened():
    folders = []

    def open_run(path, config=None):
        folders.append(RunFolder(path))
        folders[-1].open(config or Config(), print)
        return folders[-1]

    yield open_run
    for folder in folders:
        folder.close()


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("tensorboard", "../home/curves"),
        ("checkpoints", "../home/kept"),
        ("report.html", "../home/bashrc"),
        ("metrics.jsonl", "../home/bashrc"),
        ("metrics.jsonl.damaged", "../home/bashrc"),
        ("starts.jsonl", "../home/bashrc"),
        ("config.yaml", "../home/bashrc"),
        ("skipped.txt", "../home/new"),  # it would be made
        (".lock", "../home/kept"),
        ("outcome.json", "/dev/null"),
    ],
)
def test_a_link_that_leads_out_is_one_error_before_anything_is_written(
    tmp_path, home, opened, name, target
):
    (tmp_path / "run" / name).symlink_to(target)
    real = os.path.realpath(tmp_path / "run" / target)
    with pytest.raises(SettingsError, match="is a link out of the run folder") as error:
        opened(tmp_path / "run")
    assert str(tmp_path / "run" / name) in str(error.value)
    assert real in str(error.value)
    with pytest.raises(SettingsError, match="out of the run folder"):
        RunFolder(tmp_path / "run").check_open(Config())
    assert os.listdir(tmp_path / "run") == [name]


def test_a_link_deep_inside_is_found(tmp_path, home, opened):
    (tmp_path / "run/tensorboard/train/plugins").mkdir(parents=True)
    (tmp_path / "run/tensorboard/train/plugins/profile").symlink_to(home)
    with pytest.raises(SettingsError, match="plugins/profile is a link out of"):
        opened(tmp_path / "run")


def test_a_fifo_under_a_name_of_the_run_is_refused_and_not_waited_for(tmp_path, opened):
    for name in ("metrics.jsonl", "config.yaml"):
        (tmp_path / name).mkdir()
        os.mkfifo(tmp_path / name / name)
        with pytest.raises(SettingsError, match=f"{name} is neither a file nor a folder"):
            opened(tmp_path / name)


def test_links_that_stay_inside_and_links_of_the_user_are_accepted(tmp_path, home, opened):
    run = tmp_path / "run"
    (run / "curves").mkdir()
    (run / "tensorboard").symlink_to("curves")
    (run / "data").symlink_to(home)
    (tmp_path / "link").symlink_to("run")
    opened(tmp_path / "link")
    TensorBoardWriter(run / "tensorboard", 0, print).scalars("train", 1, {"loss": 1.0})
    assert list((run / "curves/train").iterdir())


def test_a_folder_that_everybody_may_write_to_can_be_trained_in(tmp_path, opened):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    folder = opened(tmp_path / "run")
    CheckpointStore(folder.checkpoints).save(Snapshot(1, {"model": {"a": np.zeros(3)}}, {}))
    assert CheckpointStore(folder.checkpoints).load(1).step == 1
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o777


def test_the_names_of_earlier_versions_are_no_longer_written_to(tmp_path, home, opened):
    """Whoever knew the process's number could put links there, which were written through."""
    run, process = tmp_path / "run", os.getpid()
    for name in (
        ".config.yaml.new", ".starts.jsonl.new", ".dataset.json.new", ".metrics.jsonl.new",
        f".new-{process}-report.html", f".new-{process}-predictions.npz", f".try-{process}",
        f".try-{process}.new",
    ):  # fmt: skip
        (run / name).symlink_to(home / "bashrc")
    folder = opened(run)
    folder.begin({"classes": ["a"]}, {"host": "one"})
    folder.write_outcome({"outcome": "stopped"})
    metrics = MetricsFile(folder.metrics, print)
    metrics.append({"step": 1, "split": "train"})
    metrics.rewind(1)
    (folder.checkpoints).mkdir()
    for name in ("step-00000001.unfinished", "step-00000001.replaced"):
        (folder.checkpoints / name).symlink_to(home / "kept")
    store = CheckpointStore(folder.checkpoints)
    store.remove_leftovers()
    for _ in range(2):
        store.save(Snapshot(1, {"model": {"a": np.zeros(3)}}, {}))


def test_a_folder_that_becomes_a_link_while_the_run_goes_on_is_not_followed(tmp_path, home, opened):
    folder = opened(tmp_path / "run")
    board = TensorBoardWriter(folder.tensorboard, 0, print)
    folder.tensorboard.rename(tmp_path / "run/before")
    folder.tensorboard.symlink_to(home / "curves")
    board.scalars("train", 1, {"loss": 1.0})
    folder.checkpoints.symlink_to(home / "kept")
    with pytest.raises(CheckpointError, match="outside"):
        CheckpointStore(folder.checkpoints).save(Snapshot(1, {}, {}))
    folder.start_over()
    assert not folder.checkpoints.exists()


def test_a_lock_of_one_who_has_gone_is_not_written_through(tmp_path, home):
    """Its file is renamed and overwritten when it is taken over."""
    lock = tmp_path / "run/.lock"
    lock.mkdir()
    (lock / "gone.json").symlink_to(home / "bashrc")
    with pytest.raises(SettingsError, match=r"gone\.json is a link out of"):
        check_links(tmp_path / "run")
    with pytest.raises(OSError, match=r"outside|link"):
        RunLock(tmp_path / "run").acquire(print, stale_s=0.1)


def test_a_hard_link_to_a_file_of_the_user_is_not_changed(tmp_path, home, opened):
    run = tmp_path / "run"
    for name in ("metrics.jsonl", "starts.jsonl", "outcome.json"):
        os.link(home / "bashrc", run / name)
    run.chmod(0o777)
    (run / "outcome.json").unlink()
    folder = opened(run)
    folder.begin({"classes": ["a"]}, {"host": "one"})
    MetricsFile(folder.metrics, print).rewind(0)


def test_a_lock_that_is_none_ends_in_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runs.lock._EMPTY_POLLS", 2)
    (tmp_path / "run/.lock/inner").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"is not a lock of a run\. Remove it"):
        RunLock(tmp_path / "run").acquire(print)


@pytest.mark.parametrize(
    "facts",
    ["[]", "[" * 50_000, '{"process": 1e400}', '{"process": -1}', '{"process": "9" }', "\x1b[2J"],
)
def test_forged_facts_of_a_holder_are_no_traceback(tmp_path, facts):
    (tmp_path / "run/.lock").mkdir(parents=True)
    (tmp_path / "run/.lock/token.json").write_text(facts)
    lock = RunLock(tmp_path / "run")
    lock.acquire(print, stale_s=0.1)
    lock.release()


def test_what_a_holder_says_of_itself_cannot_control_a_terminal(tmp_path):
    (tmp_path / "run/.lock").mkdir(parents=True)
    (tmp_path / "run/.lock/token.json").write_text('{"host": "\\u001b[2Jhost", "process": 7}')
    said = []
    RunLock(tmp_path / "run").acquire(said.append, stale_s=0.1)
    assert said
    assert not any("\x1b" in line for line in said)


def test_times_in_names_of_event_files_may_be_anything(tmp_path, opened):
    folder = opened(tmp_path / "run")
    (folder.tensorboard / "train").mkdir(parents=True)
    for time in ("9" * 220, "\u0661", "-1", "9999999999"):
        (folder.tensorboard / f"train/events.out.tfevents.{time}.0").touch()
    TensorBoardWriter(folder.tensorboard, 0, print).scalars("train", 1, {"loss": 1.0})


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("state.json", '"step": 1', '"step": -1'),
        ("state.json", '"step": 1', '"step": 1e999'),
        ("state.json", '"step": 1', '"step": "1"'),
        ("state.json", "{", "[" * 100_000),
        ("manifest.json", "model.safetensors", "../../../home/bashrc"),
        ("manifest.json", "model.safetensors", "/dev/zero"),
    ],
)
def test_a_forged_checkpoint_is_damaged(tmp_path, home, file, old, new):
    store = CheckpointStore(tmp_path / "run/checkpoints")
    folder = store.save(Snapshot(1, {"model": {"a": np.zeros(3)}}, {}))
    text = (folder / file).read_text().replace(old, new, 1)
    (folder / file).write_text(text)
    if file == "state.json":  # whoever forges a file forges its checksum too
        from pipeline.runs.checkpoints.store import _manifest, _write_json

        (folder / "manifest.json").unlink()
        _write_json(folder / "manifest.json", _manifest(folder))
    with pytest.raises(CheckpointError, match="is damaged"):
        store.load(1)


def test_weights_that_are_a_fifo_are_not_waited_for(tmp_path):
    store = CheckpointStore(tmp_path / "run/checkpoints")
    (tmp_path / "run").mkdir(exist_ok=True)
    folder = store.save(Snapshot(1, {"model": {"a": np.zeros(3)}}, {}))
    os.mkfifo(folder / "more.safetensors")  # not in the manifest
    assert store.load(1).tensors.keys() == {"model"}
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        store.load(1)
