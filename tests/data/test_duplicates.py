"""Images in two splits or under two labels are found where looking is cheap."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data import duplicates
from pipeline.data.duplicates import find_duplicates
from pipeline.data.sources.source import open_source
from pipeline.data.split import DataSource, Split


@pytest.fixture
def images(tmp_path):
    """Ten images of noise in each class, all of the same size in bytes, and a test image each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 1)):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.bmp")
    return tmp_path


def find(root):
    source = open_source(DataConfig(source="image_folder", path=str(root)), 0)
    found = find_duplicates(source, limit_s=60.0)
    return source, found


def test_different_images_of_the_same_size_are_no_duplicates(images):
    _, found = find(images)
    assert (found.splits, found.labels, found.complete) == ([], [], True)
    assert found.notes(("cat", "dog")) == ()


def test_a_copy_in_another_split_or_under_another_label_is_found(images):
    shutil.copy(images / "train/cat/3.bmp", images / "test/cat/copy.bmp")
    shutil.copy(images / "train/dog/4.bmp", images / "train/cat/copy.bmp")
    shutil.copy(images / "train/dog/5.bmp", images / "train/dog/copy.bmp")  # says nothing wrong
    source, found = find(images)
    named = {tuple(sorted(os.path.relpath(p.name, images) for p in pair)) for pair in found.labels}
    assert named == {("train/cat/copy.bmp", "train/dog/4.bmp")}
    across = {
        tuple(sorted(os.path.relpath(p.name, images) for p in pair))
        for pair in found.splits
        if "test" in {p.split for p in pair}
    }
    assert across == {("test/cat/copy.bmp", "train/cat/3.bmp")}
    text = "\n".join(found.notes(source.classes))
    assert "images are in more than one split, for example" in text
    assert "1 images have two labels, for example" in text


def test_files_that_are_equal_in_size_and_end_only_are_no_duplicates(images):
    for split, byte in (("train", b"a"), ("test", b"b")):
        (images / split / "cat" / "large.bmp").write_bytes(byte + bytes(10_000))
    assert find(images)[1].splits == []


def test_links_and_empty_files_are_not_reported_again(images):
    (images / "test/cat/link.bmp").symlink_to(images / "train/cat/0.bmp")
    os.link(images / "train/dog/0.bmp", images / "test/dog/link.bmp")
    for folder in ("train/cat", "train/dog", "test/cat"):
        (images / folder / "empty.bmp").touch()
    source, found = find(images)
    assert (found.splits, found.labels) == ([], [])
    assert "2 files of test are also in train" in source.notes[0]


def test_few_files_are_read(images, monkeypatch):
    (images / "train/cat/other.bmp").write_bytes(bytes(99))
    shutil.copy(images / "train/cat/3.bmp", images / "test/cat/copy.bmp")
    read = []
    real = duplicates._content
    monkeypatch.setattr(duplicates, "_content", lambda file: read.append(file.path) or real(file))
    assert len(find(images)[1].splits) >= 1
    assert {os.path.basename(path) for path in read} == {"3.bmp", "copy.bmp"}


def test_a_large_set_is_not_searched(images, monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_FILES", 21)
    assert find(images)[1] is None


def test_the_search_ends_when_its_time_is_over(images):
    shutil.copy(images / "train/cat/3.bmp", images / "test/cat/copy.bmp")
    source = open_source(DataConfig(source="image_folder", path=str(images)), 0)
    found = find_duplicates(source, limit_s=-1.0)
    assert (found.splits, found.compared, found.total, found.complete) == ([], 0, 23, False)


def test_files_that_are_not_read_as_a_whole_are_not_counted_as_compared(images, monkeypatch):
    shutil.copy(images / "train/cat/3.bmp", images / "test/cat/copy.bmp")
    shutil.copy(images / "train/dog/4.bmp", images / "test/dog/copy.bmp")
    source, found = find(images)
    assert (found.compared, found.total, found.complete) == (24, 24, True)
    assert len(found.splits) >= 2
    # Enough for one of the images that occur twice; the splits follow one another.
    monkeypatch.setattr(duplicates, "MOST_BYTES", (images / "train/cat/3.bmp").stat().st_size)
    read = []
    real = duplicates._content
    monkeypatch.setattr(duplicates, "_content", lambda file: read.append(file.path) or real(file))
    found = find(images)[1]
    paths = [path for split in source.splits.values() for path in split.paths]
    twice = {
        str(images / name)
        for name in ("train/cat/3.bmp", "test/cat/copy.bmp", "train/dog/4.bmp", "test/dog/copy.bmp")
    }
    first, second, *_ = [place for place, path in enumerate(paths) if path in twice]
    assert read == [paths[first]]
    assert (found.splits, found.compared, found.complete) == ([], second, False)


def test_a_search_of_pixels_says_how_many_were_compared(monkeypatch):
    pixels = np.zeros((600, 2, 2, 3), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = np.arange(600) % 256, np.arange(600) // 256
    splits = {"train": Split(np.zeros(600, np.int32), pixels, title="train")}
    source = DataSource(("a",), splits, (2, 2, 3))
    now = iter([0.0, 1.0, 2.0, 3.0])  # looked at once a batch of 256
    monkeypatch.setattr(duplicates.time, "monotonic", lambda: next(now))
    found = find_duplicates(source, limit_s=2.5)
    assert (found.compared, found.total, found.complete) == (512, 600, False)


def test_pixels_in_memory_are_compared():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    train = Split(np.array([0, 1, 0, 1], np.int32), pixels[[0, 1, 2, 0]], title="train")
    test = Split(np.array([0, 1], np.int32), pixels[[2, 5]], title="test")
    source = DataSource(("a", "b"), {"train": train, "test": test}, (4, 4, 3))
    found = find_duplicates(source)
    assert [(a.name, b.name) for a, b in found.labels] == [("image 0 of train", "image 3 of train")]
    assert [(a.name, b.name) for a, b in found.splits] == [("image 2 of train", "image 0 of test")]
    assert find_duplicates(source, limit_bytes=pixels.nbytes - 1) is None
