"""A saved list of an image folder is the folder's list, or it is not used."""

import io
import os
import shutil
import time

import numpy as np
import pytest

from pipeline.config import DataConfig
from pipeline.data.fingerprint import fingerprint
from pipeline.data.sources import saved_listing
from pipeline.data.sources.saved_listing import read_listing, save_listing
from pipeline.data.sources.source import open_source

AN_HOUR_AGO = time.time() - 3600


@pytest.fixture(autouse=True)
def small_sets_are_saved(monkeypatch):
    monkeypatch.setattr(saved_listing, "LEAST_FILES", 1)


@pytest.fixture
def root(tmp_path):
    """Two classes with 30 files each, one of them in a folder of its own."""
    for name in ("ant", "bée/inner"):
        folder = tmp_path / "set" / "train" / name
        folder.mkdir(parents=True)
        for number in range(30):
            (folder / f"{number} é.jpg").write_bytes(b"x" * (number + 1))
    (tmp_path / "set/train/ant" / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    (tmp_path / "set/train/ant/notes.txt").write_text("left out")
    settle(tmp_path / "set")
    return tmp_path / "set"


def settle(folder):
    """Makes all folders look as if they had not been modified for an hour."""
    for place, _, _ in os.walk(folder):
        os.utime(place, (AN_HOUR_AGO, AN_HOUR_AGO))


def settings(root, **others):
    return DataConfig(source="image_folder", path=str(root), **others)


def save(root, file, **others):
    source = open_source(settings(root, **others), 0)
    marks = {name: fingerprint(split) for name, split in source.splits.items()}
    save_listing(file, settings(root, **others), source, marks)
    return source


def test_it_is_the_list_of_the_folder(root, tmp_path):
    file = tmp_path / "listing.npz"
    source = save(root, file)
    found = read_listing(file, settings(root))
    assert (found.classes, found.notes) == (source.classes, source.notes)
    assert list(found.splits) == list(source.splits) == ["train", "validation"]
    for name, split in source.splits.items():
        same = found.splits[name]
        assert list(same.paths) == list(split.paths)
        assert same.labels.tolist() == split.labels.tolist()
        assert fingerprint(same) == fingerprint(split)
        assert (same.title, same.root, same.limit_bytes) == (
            split.title, split.root, split.limit_bytes
        )  # fmt: skip
        assert same.content(3) == split.content(3)


CHANGES = {
    "a new file": lambda root: (root / "train/ant/new.jpg").write_bytes(b"x"),
    "a file that has gone": lambda root: (root / "train/bée/inner/3 é.jpg").unlink(),
    "another name": lambda root: (root / "train/ant/1 é.jpg").rename(root / "train/ant/z.jpg"),
    "another size": lambda root: (root / "train/ant/7 é.jpg").write_bytes(b"other"),
    "a new class": lambda root: shutil.copytree(root / "train/ant", root / "train/cow"),
    "a new split": lambda root: shutil.copytree(root / "train", root / "test"),
    "a class that has gone": lambda root: shutil.rmtree(root / "train/ant"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_the_folder_makes_it_useless(root, tmp_path, what):
    file = tmp_path / "listing.npz"
    save(root, file)
    CHANGES[what](root)
    assert read_listing(file, settings(root)) is None


@pytest.mark.parametrize(
    "others",
    [{"links_out": True}, {"validation_fraction": 0.5}, {"validation_split": "last"},
     {"max_pixels": 10_000}],
)  # fmt: skip
def test_so_do_other_settings(root, tmp_path, others):
    file = tmp_path / "listing.npz"
    save(root, file)
    assert read_listing(file, settings(root, **others)) is None
    save(root, file, **others)
    assert read_listing(file, settings(root, **others)) is not None


def test_a_copy_of_the_folder_is_listed_again(root, tmp_path):
    file = tmp_path / "listing.npz"
    save(root, file)
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copy)
    for place, _, _ in os.walk(tmp_path / "copy"):
        os.utime(place)
    assert read_listing(file, settings(tmp_path / "copy")) is None


def test_a_folder_that_is_being_changed_is_not_saved(root, tmp_path):
    os.utime(root / "train/bée/inner")
    save(root, tmp_path / "listing.npz")
    assert not (tmp_path / "listing.npz").exists()


def test_few_files_are_not_saved(root, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_listing, "LEAST_FILES", 62)
    save(root, tmp_path / "listing.npz")
    assert not (tmp_path / "listing.npz").exists()


def test_a_file_that_cannot_be_written_is_no_error(root, tmp_path):
    save(root, tmp_path / "missing" / "listing.npz")
    assert read_listing(tmp_path / "missing" / "listing.npz", settings(root)) is None


def change_names(arrays):
    arrays["train.names"] = arrays["train.names"].copy()
    arrays["train.names"][1] = ord("/")


DAMAGES = {
    "a name that leads elsewhere": change_names,
    "a missing array": lambda arrays: arrays.pop("train.labels"),
    "folders that do not exist": lambda arrays: arrays.update(
        {"train.folder_of": arrays["train.folder_of"] + 9}
    ),
    "too few names": lambda arrays: arrays.update({"train.names": arrays["train.names"][:-1]}),
    "too few labels": lambda arrays: arrays.update({"train.labels": arrays["train.labels"][:-1]}),
    "labels without a class": lambda arrays: arrays.update(
        {"train.labels": arrays["train.labels"] + 2}
    ),
    "facts of another kind": lambda arrays: arrays.update(
        {"facts": np.frombuffer(b"[]", np.uint8)}
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_list_is_not_used(root, tmp_path, what):
    file = tmp_path / "listing.npz"
    save(root, file)
    with np.load(io.BytesIO(file.read_bytes())) as archive:
        arrays = dict(archive)
    DAMAGES[what](arrays)
    np.savez(file, **arrays)
    assert read_listing(file, settings(root)) is None


def test_a_truncated_list_is_not_used(root, tmp_path):
    file = tmp_path / "listing.npz"
    save(root, file)
    file.write_bytes(file.read_bytes()[:-100])
    assert read_listing(file, settings(root)) is None
