"""A fingerprint stays when a data set moves, and changes with its examples."""

import os
import shutil

import numpy as np
import pytest

from pipeline.config import DataConfig
from pipeline.data.fingerprint import fingerprint
from pipeline.data.sources.source import open_source
from pipeline.data.split import Split
from tests.data.prepared import in_this_process, make_folder, prepare_into


@pytest.fixture
def photos(tmp_path):
    """Files of different sizes; the fingerprint never opens them."""
    for name, size in (("train/a/1.png", 10), ("train/a/2.png", 20), ("train/b/1.png", 30)):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    return tmp_path / "photos"


def of(root):
    files = sorted(str(p) for p in root.rglob("*.png"))
    labels = np.array([int("/b/" in f) for f in files], np.int32)
    return fingerprint(Split(labels, paths=files))


def test_a_copy_elsewhere_with_new_times_has_the_same_fingerprint(photos, tmp_path):
    before = of(photos)
    moved = tmp_path / "another" / "place"
    shutil.copytree(photos, moved)
    for file in moved.rglob("*.png"):
        os.utime(file, (1, 1))
    assert of(moved) == before
    assert len(before) == 32


CHANGES = {
    "a file that has gone": lambda root: (root / "train/a/2.png").unlink(),
    "a new file": lambda root: (root / "train/b/0.png").write_bytes(b"x"),
    "another name": lambda root: (root / "train/a/2.png").rename(root / "train/a/3.png"),
    "another size": lambda root: (root / "train/a/2.png").write_bytes(b"x" * 21),
    "another class folder": lambda root: (root / "train/b").rename(root / "train/c"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_it_changes_with_the_files(photos, what):
    before = of(photos)
    CHANGES[what](photos)
    assert of(photos) != before


def test_labels_and_order_count(photos):
    files = sorted(str(p) for p in photos.rglob("*.png"))
    marks = {
        fingerprint(Split(np.array(labels, np.int32), paths=paths))
        for labels, paths in (([0, 0, 1], files), ([0, 1, 1], files), ([0, 0, 1], files[::-1]))
    }
    assert len(marks) == 3


def test_names_that_are_not_utf_8_and_missing_files_have_one_too(tmp_path):
    paths = [os.fsdecode(b"caf\xe9/1.png"), str(tmp_path / "gone.png")]
    assert fingerprint(Split(np.zeros(2, np.int32), paths=paths))
    assert fingerprint(Split(np.zeros(0, np.int32), paths=[]))


def test_pixels_in_memory_count():
    images, labels = np.zeros((4, 2, 2, 3), np.uint8), np.arange(4, dtype=np.int32)
    other = images.copy()
    other[3, 1, 1, 2] = 1
    same = Split(labels, images.copy(order="F"), title="elsewhere")
    assert fingerprint(Split(labels, images)) == fingerprint(same)
    assert fingerprint(Split(labels, images)) != fingerprint(Split(labels, other))


def test_prepared_shards_count_by_their_checksums_wherever_they_are(tmp_path):
    first, copy = tmp_path / "first", tmp_path / "elsewhere"
    with in_this_process():
        prepare_into(first, make_folder(tmp_path / "photos"))
    shutil.copytree(first, copy)

    def marks(root):
        source = open_source(DataConfig(source="records", path=str(root)), 0)
        return {name: fingerprint(split) for name, split in source.splits.items()}

    before = marks(first)
    assert marks(copy) == before
    facts = (copy / "dataset.json").read_text()
    (copy / "dataset.json").write_text(facts.replace('"sha256": "', '"sha256": "0', 1))
    assert marks(copy) != before
