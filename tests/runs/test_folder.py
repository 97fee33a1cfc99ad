"""The run folder is tried before the first step."""

import subprocess

import pytest

from pipeline.config import Config, DataConfig
from pipeline.errors import DataError, SettingsError
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.runs.folder import RunFolder, RunFolderError
from pipeline.runs.metrics_file import MetricsFile


@pytest.fixture
def opened():
    """Opens run folders, and gives their locks back with the test."""
    folders = []

    def start(path, config=Config()):  # noqa: B008 - frozen
        folder = RunFolder(path)
        folders.append(folder)
        folder.open(config, print)
        return folder

    yield start
    for folder in folders:
        folder.close()


def test_nothing_but_the_settings_and_the_lock_is_left_by_trying(tmp_path, opened):
    opened(tmp_path / "run")
    assert {f.name for f in (tmp_path / "run").iterdir()} == {"config.yaml", ".lock"}


def test_a_file_in_the_way_is_named(tmp_path, opened):
    (tmp_path / "run").write_text("")
    with pytest.raises(SettingsError, match=r"cannot use the run folder .*run: File exists"):
        opened(tmp_path / "run")


@pytest.mark.processes
def test_a_read_only_file_system_is_named(small_disk, opened):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SettingsError, match="Read-only file system"):
        opened(small_disk / "run")


@pytest.mark.processes
def test_two_checkpoints_must_have_room_and_one_once_there_are_some(small_disk, opened):
    folder = opened(small_disk / "run")
    folder.check_free_space(400_000)
    with pytest.raises(SettingsError, match=r"1\.0 MB of free space, .* need 1\.2 MB"):
        folder.check_free_space(600_000)
    for name in ("step-00000001", "step-00000002"):
        (folder.checkpoints / name).mkdir(parents=True)
    folder.check_free_space(600_000)


def test_a_request_to_stop_from_before_the_start_is_none(tmp_path, opened):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/stop").touch()
    folder = opened(tmp_path / "run")
    assert not folder.stop_requested
    (tmp_path / "run/stop").touch()
    assert folder.stop_requested


def test_an_outcome_that_cannot_be_written_is_an_error_with_its_place(tmp_path, opened):
    folder = opened(tmp_path / "run")
    (tmp_path / "run/outcome.json").mkdir()
    with pytest.raises(RunFolderError, match=r"cannot write .*outcome\.json"):
        folder.write_outcome({"outcome": "done"})


def test_each_start_is_recorded_with_the_checkpoint_it_finds(tmp_path, opened):
    folder = opened(tmp_path / "run")
    assert folder.starts() == []
    folder.begin({"classes": ["a"]}, {"host": "one"})
    store = CheckpointStore(folder.checkpoints)
    for step in (10, 20):
        store.save(Snapshot(step, {}, {}))
    folder.write_outcome({"outcome": "stopped"})
    folder.begin({"classes": ["a"]}, {"host": "two"})
    assert folder.starts() == [
        {"host": "one", "checkpoint_step": None},
        {"host": "two", "checkpoint_step": 20},
    ]
    assert folder.outcome() is None


def test_a_damaged_line_of_the_starts_costs_no_other(tmp_path, opened, caplog):
    folder = opened(tmp_path / "run")
    for host in ("one", "two", "three"):
        folder.begin({"classes": ["a"]}, {"host": host})
    file = tmp_path / "run/starts.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], b"\xff" + lines[1][1:], b"\0\0" + lines[2], b'{"ho']))
    assert [start["host"] for start in folder.starts()] == ["one", "three"]
    folder.begin({"classes": ["a"]}, {"host": "four"})
    assert [start["host"] for start in folder.starts()] == ["one", "three", "four"]
    aside = tmp_path / "run/starts.jsonl.damaged"
    assert aside.read_bytes() == b"\xff" + lines[1][1:] + b"\n"
    assert str(aside) in caplog.text


@pytest.mark.parametrize("content", [b"\0" * 40, b'{"outcome": "do', b"\xff", b"[]", b"{}", b""])
@pytest.mark.parametrize("name", ["outcome", "dataset"])
def test_a_damaged_small_file_is_one_error_with_what_to_do(tmp_path, opened, name, content):
    folder = opened(tmp_path / "run")
    (tmp_path / f"run/{name}.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}\.json is damaged: .*delete it and run the"):
        getattr(folder, name)()


def test_a_list_that_is_not_utf_8_is_read(tmp_path, opened):
    folder = opened(tmp_path / "run")
    folder.skipped.write_bytes(b"a.jpg\n\xff.jpg\n")
    assert folder.skipped_images() == ["a.jpg", "\\xff.jpg"]


def test_a_start_without_an_update_does_not_claim_the_folder(tmp_path, opened):
    first = opened(tmp_path / "run")
    first.begin({"classes": ["a"]}, {"host": "one"})
    first.write_outcome({"outcome": "failed"})
    CheckpointStore(first.checkpoints).save(Snapshot(0, {}, {}))  # as before an update that fails
    (first.checkpoints / "step-00000001.unfinished").mkdir()
    first.close()
    second = opened(tmp_path / "run", Config(seed=7))
    assert second.config().seed == 7
    assert CheckpointStore(second.checkpoints).steps() == []  # those were the weights of seed 0
    assert [start["host"] for start in second.starts()] == ["one"]  # nothing is lost


def test_a_start_that_failed_before_its_first_checkpoint_leaves_nothing_of_other_settings(
    tmp_path, opened
):
    first = opened(tmp_path / "run")
    CheckpointStore(first.checkpoints).save(Snapshot(0, {}, {}))
    first.metrics.write_text('{"step": 5, "split": "train"}\n')
    first.skipped.write_text("a.jpg\n")
    first.close()
    second = opened(tmp_path / "run", Config(seed=7))
    assert CheckpointStore(second.checkpoints).steps() == []
    assert second.skipped_images() == []
    # What training does first at step 0.
    assert MetricsFile(second.metrics, print).rewind(0) == []


def test_a_damaged_image_may_be_left_out_after_a_start_that_failed_at_it(tmp_path, opened):
    first = opened(tmp_path / "run")
    CheckpointStore(first.checkpoints).save(Snapshot(20, {}, {}))
    first.close()
    skip = Config(data=DataConfig(on_bad_image="skip"))
    second = opened(tmp_path / "run", skip)
    assert second.config().data.on_bad_image == "skip"
    assert CheckpointStore(second.checkpoints).steps() == [20]


def _stop_at_step_0(folder):
    CheckpointStore(folder.checkpoints).save(Snapshot(0, {}, {}))
    folder.write_outcome({"outcome": "stopped"})


def _set_aside_the_only_update(folder):
    store = CheckpointStore(folder.checkpoints)
    store.save(Snapshot(1, {}, {}))
    store.set_aside(1)


@pytest.mark.parametrize(
    "leave",
    [
        lambda folder: CheckpointStore(folder.checkpoints).save(Snapshot(1, {}, {})),
        _set_aside_the_only_update,
        _stop_at_step_0,
    ],
    ids=["a checkpoint", "a checkpoint set aside", "stopped at step 0"],
)
def test_a_start_that_got_further_or_was_stopped_claims_the_folder(tmp_path, opened, leave):
    first = opened(tmp_path / "run")
    leave(first)
    first.close()
    with pytest.raises(SettingsError, match=r"other settings:\n  seed: 0 -> 7"):
        opened(tmp_path / "run", Config(seed=7))
    assert first.config().seed == 0


def test_the_initial_weights_stay_where_the_settings_do(tmp_path, opened):
    first = opened(tmp_path / "run")
    CheckpointStore(first.checkpoints).save(Snapshot(0, {}, {}))
    first.close()
    assert CheckpointStore(opened(tmp_path / "run").checkpoints).steps() == [0]


def test_two_starts_with_other_settings_exclude_each_other_before_the_first_checkpoint(
    tmp_path, opened
):
    first = opened(tmp_path / "run")
    with pytest.raises(SettingsError, match="another process is training in"):
        opened(tmp_path / "run", Config(seed=7))
    assert first.config().seed == 0
    assert first.lock.is_held


def _on(place):
    return Config(data=DataConfig(source="image_folder", path=place))


def test_the_result_of_a_finished_run_is_not_given_for_a_data_set_at_another_place(
    tmp_path, opened
):
    data = tmp_path / "data"
    data.mkdir()
    first = opened(tmp_path / "run", _on(str(data)))
    CheckpointStore(first.checkpoints).save(Snapshot(9, {}, {}))
    first.check(_on(str(tmp_path / "moved")))  # unfinished: the data itself is compared
    first.write_outcome({"outcome": "done", "result": {}})
    first.close()
    (tmp_path / "link").symlink_to(data)
    for same in (f"{tmp_path}/./data/", f"{tmp_path}/link"):
        first.check(_on(same))
    for place in (f"{tmp_path}/other", None):
        with pytest.raises(SettingsError, match=r"data\.path: \S+/data -> .*\n.*run\.dir=FOLDER"):
            first.check(_on(place))
    with pytest.raises(SettingsError, match=r"holds a finished run with another"):
        opened(tmp_path / "run", _on(None))
    assert first.config().data.path == str(data)
