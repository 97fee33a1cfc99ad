"""The thread that writes: one at a time, and what becomes of it where writing fails."""

import threading
import time
from itertools import pairwise

import pytest

from pipeline.runs.checkpoints import background
from pipeline.runs.checkpoints.background import BackgroundWriter
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointError, CheckpointStore


class Disk(CheckpointStore):
    """A store that can be slow or full, and notes what it is asked for."""

    def __init__(self, folder, keep=10):
        super().__init__(folder, keep)
        self.full = False
        self.open = threading.Event()
        self.open.set()
        self.tries = []
        self.at_once = self.most_at_once = 0

    def save(self, snapshot):
        self.tries.append(snapshot.step)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.open.wait(10)
        self.at_once -= 1
        if self.full:
            raise CheckpointError("no space left")
        return super().save(snapshot)


def snapshot(step):
    return Snapshot(step, {}, {})


@pytest.fixture
def said():
    return []


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path / "checkpoints")


@pytest.fixture
def writer(disk, said, monkeypatch):
    monkeypatch.setattr(background, "_FIRST_RETRY_S", 0.05)
    writer = BackgroundWriter(disk, said.append)
    yield writer
    disk.open.set()
    writer.close()


def wait_for(condition):
    limit_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit_s
        time.sleep(0.005)


def test_submit_returns_before_the_write_and_finish_after_it(disk, writer):
    disk.open.clear()
    writer.submit(snapshot(1), None)
    assert disk.steps() == []
    threading.Timer(0.2, disk.open.set).start()
    writer.finish(give_up_after_s=10)
    assert disk.steps() == [1]


def test_one_is_written_at_a_time_and_a_run_that_cannot_keep_up_says_so(
    disk, writer, said, monkeypatch
):
    monkeypatch.setattr(background, "_SLOW_S", 0.1)
    disk.open.clear()
    writer.submit(snapshot(1), None)
    wait_for(lambda: disk.tries)
    threading.Timer(0.3, disk.open.set).start()
    writer.submit(snapshot(2), None)
    assert disk.steps() == [1]
    writer.finish(give_up_after_s=10)
    assert disk.tries == [1, 2]
    assert disk.most_at_once == 1
    assert len(said) == 1
    assert "checkpoints are more frequent" in said[0]


def test_where_the_disk_is_full_training_goes_on_and_the_newest_and_the_best_wait(
    disk, writer, said
):
    disk.full = True
    writer.submit(snapshot(1), best_step=None)
    wait_for(lambda: said)
    assert "no space left. Retrying in" in said[0]
    writer.submit(snapshot(2), best_step=2)
    writer.submit(snapshot(3), best_step=2)
    writer.submit(snapshot(4), best_step=2)
    disk.full = False
    writer.finish(give_up_after_s=10)
    # 1 and 3 were replaced by later ones.
    assert disk.steps() == [2, 4]
    assert any("is now written" in text for text in said)


def test_a_last_checkpoint_that_cannot_be_written_is_an_error_in_time(disk, writer):
    disk.full = True
    writer.submit(snapshot(1), None)
    start_s = time.monotonic()
    with pytest.raises(
        CheckpointError, match=r"no space left.*last checkpoint of the run is not saved"
    ):
        writer.finish(give_up_after_s=0.5)
    assert 0.4 < time.monotonic() - start_s < 5
    assert len(disk.tries) > 2


def test_pauses_between_tries_grow(disk, writer, said):
    disk.full = True
    writer.submit(snapshot(1), None)
    times = []
    for count in range(1, 5):
        wait_for(lambda count=count: len(disk.tries) >= count)
        times.append(time.monotonic())
    pauses = [b - a for a, b in pairwise(times)]
    assert pauses[0] < pauses[1] < pauses[2]
    disk.full = False


def test_rows_that_cannot_be_written_keep_the_checkpoint_from_being_written(disk, said):
    def fail():
        raise OSError(28, "No space left on device")

    writer = BackgroundWriter(disk, said.append, before_save=fail)
    writer.submit(snapshot(1), None)
    with pytest.raises(CheckpointError, match="No space left on device"):
        writer.finish(give_up_after_s=0)
    writer.close()
    assert disk.steps() == []


def test_what_fails_in_another_way_is_told_as_well(disk, writer):
    writer.submit(Snapshot(1, {}, {"what": object()}), None)  # JSON has no such thing
    with pytest.raises(CheckpointError, match="not JSON serializable"):
        writer.finish(give_up_after_s=0)


def test_the_best_is_kept_when_old_ones_are_deleted(tmp_path, said):
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    writer = BackgroundWriter(store, said.append)
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2)):
        writer.submit(snapshot(step), best)
    writer.close()
    assert store.steps() == [2, 4]
    assert said == []
