import json

import numpy as np
import pytest

from pipeline.checkpoint import CheckpointError, CheckpointStore, Snapshot, restore_variables
from pipeline.errors import SettingsError


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
    file.write_bytes(file.read_bytes()[:-1])


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


def test_prune_keeps_the_newest_the_best_and_sweeps_leftovers(store, tmp_path):
    for step in range(1, 6):
        store.save(snapshot(step))
    leftover = tmp_path / "checkpoints" / "step-00000009.unfinished"
    leftover.mkdir()
    store.prune(best_step=2)
    assert store.steps() == [2, 4, 5]
    assert not leftover.exists()


def test_an_unwritable_folder_is_an_error_that_names_it(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        CheckpointStore(tmp_path / "checkpoints").save(snapshot(1))


class FakeVariable:
    def __init__(self, value):
        self.value = value
        self.shape = value.shape

    def assign(self, value):
        self.value = value


def test_restoring_another_model_lists_what_differs_and_assigns_nothing():
    variables = {"a": FakeVariable(np.zeros((2, 3))), "b": FakeVariable(np.zeros(1))}
    arrays = {"a": np.ones((3, 2)), "c": np.ones(1)}
    with pytest.raises(SettingsError) as error:
        restore_variables(variables, arrays, "model")
    for part in ("a: (3, 2) in the checkpoint, (2, 3) here", "b: not in", "c: only in"):
        assert part in str(error.value)
    assert not variables["a"].value.any()


def test_the_manifest_holds_sizes_and_sha256(store):
    import hashlib

    folder = store.save(snapshot(1))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {f.name for f in folder.iterdir()} - {"manifest.json"}
    for name, (size, digest) in manifest.items():
        data = (folder / name).read_bytes()
        assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
