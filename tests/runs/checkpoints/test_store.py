import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.runs.checkpoints import store as store_module
from pipeline.runs.checkpoints.snapshot import Snapshot
from pipeline.runs.checkpoints.store import CheckpointError, CheckpointStore


def snapshot(step):
    tensors = {
        "model": {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3) + step},
        "optimizer": {"iterations": np.int64(step)},
    }
    return Snapshot(step, tensors, {"progress": {"best": 0.1 + 0.2}})


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def test_what_was_saved_is_loaded_bit_for_bit(store):
    store.save(snapshot(3))
    got, sent = store.load(3), snapshot(3)
    assert (got.step, got.state) == (3, sent.state)
    for stem, arrays in sent.tensors.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(got.tensors[stem][name], array, strict=True)


def test_saving_a_step_again_replaces_it(store):
    store.save(snapshot(3))
    store.save(Snapshot(3, snapshot(4).tensors, {}))
    assert store.load(3).tensors["model"]["a/kernel"][0, 0] == 4
    assert store.steps() == [3]


def damage_cut(file):
    content = file.read_bytes()[:-1]
    file.write_bytes(content)
    return content


def damage_byte(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [damage_cut, damage_byte, lambda f: f.unlink()])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
def test_a_damaged_checkpoint_is_named_passed_over_and_kept(store, name, damage):
    store.save(snapshot(1))
    folder = store.save(snapshot(2))
    damage(folder / name)
    said = []
    assert store.newest(said.append).step == 1
    assert len(said) == 1
    assert str(folder) in said[0]
    assert folder.exists()


def test_only_damaged_ones_is_an_error_and_none_at_all_is_not(store):
    assert store.newest(print) is None
    damage_cut(store.save(snapshot(1)) / "model.safetensors")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        store.newest(lambda text: None)


def test_prune_keeps_the_newest_the_best_and_every_kth(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=2, keep_every_steps=4)
    for step in range(12):
        store.save(snapshot(step))
        store.prune(best_step=2 if step > 1 else None)
    assert store.steps() == [2, 4, 8, 10, 11]
    assert {f.name for f in (tmp_path / "checkpoints").iterdir()} == {
        f"step-{step:08d}" for step in store.steps()
    }


def test_what_an_interrupted_save_left_is_swept_and_nothing_else(store, tmp_path):
    store.save(snapshot(1))
    for name in ("step-00000009.unfinished", "step-00000001.unfinished"):
        (tmp_path / "checkpoints" / name).mkdir()
    store.remove_leftovers()
    assert {f.name for f in (tmp_path / "checkpoints").iterdir()} == {"step-00000001"}


def test_a_save_that_ends_between_taking_the_old_one_away_and_the_new_one_s_name(store, tmp_path):
    store.save(snapshot(3))
    (tmp_path / "checkpoints/step-00000003").rename(tmp_path / "checkpoints/step-00000003.replaced")
    (tmp_path / "checkpoints/step-00000003.unfinished").mkdir()
    store.remove_leftovers()
    assert store.newest(print).step == 3


def test_a_save_that_failed_behind_both_renames_can_be_done_again(store, tmp_path):
    store.save(snapshot(3))
    leftover = tmp_path / "checkpoints/step-00000003.replaced"
    leftover.mkdir()
    (leftover / "file").touch()
    store.save(Snapshot(3, snapshot(4).tensors, {}))
    assert store.load(3).tensors["model"]["a/kernel"][0, 0] == 4
    assert {f.name for f in (tmp_path / "checkpoints").iterdir()} == {"step-00000003"}


def test_all_is_synced_before_the_name_is_given_and_the_name_after_it(store, monkeypatch):
    store.save(snapshot(1))  # the folder is there
    done = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda n: (done.append(Path(f"/proc/self/fd/{n}").resolve().name), fsync(n))
    )
    monkeypatch.setattr(os, "rename", lambda *a, **k: (done.append("rename"), rename(*a, **k))[1])
    store.save(snapshot(2))
    at = done.index("rename")
    files = {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}
    assert files <= set(done[:at])
    # What it holds is synced before it.
    assert re.fullmatch(r"step-00000002\.[0-9a-f]{16}\.unfinished", done[at - 1])
    assert done[at + 1 :] == ["checkpoints"]


def test_a_server_that_stumbles_once_does_not_pass_for_damage(store, monkeypatch):
    store.save(snapshot(1))
    monkeypatch.setattr(store_module, "_READ_RETRY_S", (0.0, 0.0))
    real, failures = store_module.load_file, [OSError(5, "Input/output error")] * 2

    def stumble(file):
        if failures:
            raise failures.pop()
        return real(file)

    monkeypatch.setattr(store_module, "load_file", stumble)
    assert store.load(1).step == 1
    failures += [OSError(5, "Input/output error")] * 3  # a bad sector
    with pytest.raises(CheckpointError, match="Input/output error"):
        store.load(1)


def test_damaged_ones_that_are_set_aside_count_no_longer_and_are_kept(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    store.save(snapshot(10))
    content = damage_cut(store.save(snapshot(20)) / "model.safetensors")
    assert store.newest(lambda text: None, set_damaged_aside=True).step == 10
    # The run goes on from 10, and comes to 20 again: with the damaged one in its way, and counted
    # as the newest, the whole one would be deleted.
    store.save(snapshot(15))
    store.prune(best_step=None)
    assert store.steps() == [15]
    store.save(snapshot(20))
    store.prune(best_step=None)
    assert store.newest(print).step == 20
    kept = tmp_path / "checkpoints/step-00000020.set-aside-1/model.safetensors"
    assert kept.read_bytes() == content


def test_a_folder_whose_parent_has_gone_is_not_made_again(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        store.save(snapshot(1))
    assert not (tmp_path / "run").exists()


def test_an_unwritable_folder_is_an_error_that_names_it(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        CheckpointStore(tmp_path / "checkpoints").save(snapshot(1))


def crc32c(data):
    """Castagnoli's polynomial bit by bit, as RFC 3720, appendix B.4, defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_manifest_holds_sizes_and_crc32c(store):
    folder = store.save(snapshot(1))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the RFC's polynomial
    assert set(manifest) == {f.name for f in folder.iterdir()} - {"manifest.json"}
    for name, (size, checksum) in manifest.items():
        data = (folder / name).read_bytes()
        assert (size, checksum) == (len(data), f"{crc32c(data):08x}")
