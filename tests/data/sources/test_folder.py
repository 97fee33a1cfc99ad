"""Image folders: what is found in them, and what a wrong one is told."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.sources import walk
from pipeline.data.sources.source import open_source
from pipeline.errors import DataError, SettingsError


def fill(folder, classes=("cat", "dog"), num=10, extension="png"):
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(num):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / name / f"{i:03}.{extension}")


def open_(root, **settings):
    return open_source(DataConfig(source="image_folder", path=str(root), **settings), 0)


def test_files_get_the_label_of_their_folder(tmp_path):
    fill(tmp_path / "train", ("dog", "ant"))
    fill(tmp_path / "val", num=3, classes=("dog", "ant"))
    fill(tmp_path / "test", num=2, classes=("dog",))
    source = open_(tmp_path)
    assert source.classes == ("ant", "dog")
    assert source.image_shape is None
    assert {name: s.num_examples for name, s in source.splits.items()} == {
        "train": 20, "validation": 6, "test": 2,
    }  # fmt: skip
    for split in source.splits.values():
        for i in range(split.num_examples):
            assert source.classes[split.labels[i]] in split.name(i).split("/")
    assert source.splits["test"].labels.tolist() == [1, 1]


def test_without_a_test_folder_there_is_no_test_split(tmp_path):
    fill(tmp_path / "train")
    assert set(open_(tmp_path).splits) == {"train", "validation"}


def test_the_validation_split_follows_names_wherever_the_folder_lies(tmp_path):
    fill(tmp_path / "one" / "train", num=100)
    first = open_(tmp_path / "one").splits
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    fill(tmp_path / "two" / "train", ("eel",), num=30)
    second = open_(tmp_path / "two").splits

    def held(splits, root):
        return {p.removeprefix(str(root)) for p in splits["validation"].paths}

    before, after = held(first, tmp_path / "one"), held(second, tmp_path / "two")
    assert {p for p in after if "eel" not in p} == before
    assert 8 <= len(before) <= 35
    assert not set(first["train"].paths) & set(first["validation"].paths)
    assert first["train"].num_examples + first["validation"].num_examples == 200


def test_the_last_part_is_taken_of_each_class(tmp_path):
    fill(tmp_path / "train", num=10)
    splits = open_(tmp_path, validation_split="last", validation_fraction=0.2).splits
    assert [p.split("/")[-2:] for p in splits["validation"].paths] == [
        ["cat", "008.png"], ["cat", "009.png"], ["dog", "008.png"], ["dog", "009.png"],
    ]  # fmt: skip
    assert np.bincount(splits["train"].labels).tolist() == [8, 8]


def test_names_with_spaces_accents_capitals_and_subfolders_are_found(tmp_path):
    fill(tmp_path / "train", ("Ärger über", "z z"), num=2)
    image = tmp_path / "train" / "z z" / "000.png"
    shutil.copy(image, image.with_name("日本 1.PNG"))
    (image.parent / "more").mkdir()
    shutil.copy(image, image.parent / "more" / "deep.png")
    for hidden in (".DS_Store", "._000.png"):
        (image.parent / hidden).write_text("x")
    (tmp_path / "train" / ".cache").mkdir()
    source = open_(tmp_path)
    found = [p for s in source.splits.values() for p in s.paths]
    assert source.classes == ("z z", "Ärger über")
    assert len(found) == 6
    assert any(p.endswith("日本 1.PNG") for p in found)
    assert source.notes == (f"{tmp_path}/train: 1 folders skipped (1 .cache)",)


def test_files_of_other_kinds_are_left_out_and_told(tmp_path):
    fill(tmp_path / "train")
    (tmp_path / "train" / "cat" / "a.heic").write_text("x")
    (tmp_path / "train" / "cat" / "readme").write_text("x")
    (note,) = open_(tmp_path).notes
    assert "2 files left out" in note
    assert ".heic" in note


def link(path, target):
    path.symlink_to(target)
    return rf"{path} is a link to {target}, outside .*data\.links_out=true"


def case_linked_image(root):
    fill(root / "train")
    outside = root.parent / "secret.png"
    Image.new("RGB", (4, 4)).save(outside)
    return link(root / "train" / "cat" / "z.png", outside)


def case_linked_folder_in_a_class(root):
    fill(root / "train")
    fill(root.parent / "elsewhere", ("eel",))
    return link(root / "train" / "cat" / "more", root.parent / "elsewhere")


def case_linked_class(root):
    fill(root / "train")
    fill(root.parent / "elsewhere", ("eel",))
    return link(root / "train" / "eel", root.parent / "elsewhere" / "eel")


def case_linked_split(root):
    fill(root / "train")
    fill(root.parent / "elsewhere", ("cat",))
    return link(root / "test", root.parent / "elsewhere")


def case_linked_training(root):
    fill(root.parent / "elsewhere")
    root.mkdir()
    return link(root / "train", root.parent / "elsewhere")


def case_missing(root):
    return "is not a folder"


def case_test_without_train(root):
    fill(root / "test")
    return r"has no folder train/.*test/.*move them"


def case_one_class_of_the_training_images(root):
    fill(root.parent / "train")
    (root.parent / "train" / "cat").rename(root)
    return r"has no folder train/"


def case_splits_under_other_names(root):
    fill(root / "Training")
    fill(root / "Testing")
    return r"Testing, Training/ seem to be splits rather than classes"


def case_splits_and_something_else(root):
    fill(root / "seg_train")
    fill(root, ("other",))
    return r"seg_train/ seem to be splits rather than classes"


def case_splits_without_classes(root):
    fill(root, ("train_images", "test_images"))
    return r"test_images, train_images/ seem to be splits"


def case_one_folder_too_high(root):
    fill(root / "photos" / "train")
    return r"Did you mean data\.path=.*/images/photos\?"


def case_a_class_that_is_a_link_to_another(root):
    fill(root / "train", ("cat", "dog"))
    (root / "train" / "ant").symlink_to("cat")
    return (
        r"train/ant contains no images of its own: .*/train/ant is the same folder as .*train/cat"
    )


def case_a_blank_name(root):
    fill(root / "train", ("cat", "dog", "  "))
    return r"train has a folder with a blank name"


def case_two_names_that_are_shown_alike(root):
    fill(root / "train", (os.fsdecode(b"caf\xe9"), r"caf\udce9"))
    return r"train has two folders with the same class name 'caf"


def case_no_classes(root):
    (root / "train").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(root / "train" / "a.png")
    return r"train contains no folders"


def case_one_class(root):
    fill(root / "train", ("cat",))
    return r"only one class, 'cat'"


def case_empty_class(root):
    fill(root / "train")
    (root / "train" / "eel").mkdir()
    return r"class folder .*eel contains no images"


def case_other_kind(root):
    fill(root / "train")
    (root / "train" / "eel").mkdir()
    (root / "train" / "eel" / "a.svg").write_text("x")
    return r"eel contains no images \(1 \.svg found\)"


def case_unknown_test_class(root):
    fill(root / "train")
    fill(root / "test", ("cat", "eel"))
    return r"test has eel/, which .*train does not have"


def case_unknown_validation_class(root):
    fill(root / "train")
    fill(root / "validation", ("Cat",))
    return r"validation has Cat/"


def case_empty_test(root):
    fill(root / "train")
    (root / "test").mkdir()
    return r"test contains no images"


@pytest.mark.parametrize("case", [v for k, v in sorted(globals().items()) if k.startswith("case_")])
def test_a_wrong_folder_is_told_what_is_wrong(tmp_path, case):
    root = tmp_path / "images"
    message = case(root)
    with pytest.raises(DataError, match=message) as error:
        open_(root)
    assert str(root) in str(error.value)


def sizes(source):
    return {name: split.num_examples for name, split in source.splits.items()}


def test_links_out_of_the_folder_are_followed_where_they_are_allowed(tmp_path):
    fill(tmp_path / "images" / "train", num=10)
    fill(tmp_path / "elsewhere", ("eel",), num=10)
    (tmp_path / "link to all").symlink_to("images")  # the data set itself may be reached by a link
    assert sum(sizes(open_(tmp_path / "link to all")).values()) == 20
    (tmp_path / "images" / "train" / "eel").symlink_to(tmp_path / "elsewhere" / "eel")
    source = open_(tmp_path / "images", links_out=True)
    assert source.classes == ("cat", "dog", "eel")
    assert sum(sizes(source).values()) == 30
    assert source.notes == ()


# What is linked, from where in train/, and to what.
LINKS = {
    "again.png": ("cat/again.png", "000.png"),
    "its own folder": ("cat/again", "."),
    "its own folder by name": ("cat/again", "../cat"),
    "the other class": ("cat/again", "../dog"),
    "a later class": ("ant/again", "../dog"),
    "all classes": ("cat/again", ".."),
    "all of the data": ("cat/again", "../.."),
}


@pytest.mark.parametrize("where", LINKS)
def test_a_link_to_what_is_listed_adds_no_image(tmp_path, where):
    fill(tmp_path / "train", ("ant", "cat", "dog"))
    before = open_(tmp_path)
    name, target = LINKS[where]
    (tmp_path / "train" / name).symlink_to(target)
    source = open_(tmp_path)
    for split in ("train", "validation"):
        assert list(source.splits[split].paths) == list(before.splits[split].paths)
    (note,) = source.notes
    assert "1 links left out" in note
    assert f"{tmp_path}/train/{name} is {tmp_path}" in note


def test_two_links_to_their_own_folder_are_no_endless_loop(tmp_path):
    fill(tmp_path / "train")
    for name in "ab":
        (tmp_path / "train" / "cat" / name).symlink_to(".")
    (tmp_path / "train" / "cat" / "circle.png").symlink_to("circle.png")
    source = open_(tmp_path)
    # The link to itself stays: reading it says what is wrong.
    assert sum(sizes(source).values()) == 21
    assert "2 links left out" in source.notes[0]


def test_a_hard_link_counts_once_and_a_copy_twice(tmp_path):
    fill(tmp_path / "train")
    cat = tmp_path / "train" / "cat"
    (cat / "again.png").hardlink_to(cat / "003.png")
    shutil.copy(cat / "003.png", cat / "copy.png")
    source = open_(tmp_path)
    assert sum(sizes(source).values()) == 21
    (note,) = source.notes
    assert f"1 links left out, because their targets are already listed: {cat}" in note


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_link_that_puts_a_file_into_two_classes_is_named(tmp_path, kind):
    fill(tmp_path / "train")
    link, file = tmp_path / "train" / "dog" / "as.png", tmp_path / "train" / "cat" / "000.png"
    link.symlink_to("../cat/000.png") if kind == "soft" else link.hardlink_to(file)
    source = open_(tmp_path)
    assert sum(sizes(source).values()) == 20
    expected = f"1 of these links are in a different class than the file: {link} is {file}"
    assert expected in source.notes[1]


@pytest.mark.parametrize("kind", ["soft", "hard", "folder"])
def test_a_link_that_puts_a_file_into_two_splits_is_named(tmp_path, kind):
    fill(tmp_path / "train")
    fill(tmp_path / "test", ("dog",) if kind == "folder" else ("cat", "dog"), num=3)
    link, file = tmp_path / "test" / "cat" / "000.png", tmp_path / "train" / "cat" / "000.png"
    if kind == "folder":
        (tmp_path / "test" / "cat").symlink_to("../train/cat")
    else:
        link.unlink()
        link.symlink_to("../../train/cat/000.png") if kind == "soft" else link.hardlink_to(file)
    source = open_(tmp_path)
    assert source.splits["test"].num_examples == (13 if kind == "folder" else 6)
    (note,) = source.notes
    count = 10 if kind == "folder" else 1
    assert f"{count} files of test are also in train, through links or hard links: " in note
    assert f"{link} is {file}" in note


def test_links_to_a_hidden_store_inside_the_folder_are_followed(tmp_path):
    fill(tmp_path / "train")
    store = tmp_path / "train" / ".store"
    (tmp_path / "train" / "cat").rename(store)
    (tmp_path / "train" / "cat").symlink_to(".store")
    assert sum(sizes(open_(tmp_path)).values()) == 20


def test_network_file_systems_that_invent_inode_numbers_lose_no_image(tmp_path, monkeypatch):
    fill(tmp_path / "train")
    fill(tmp_path / "test", num=4)
    fill(tmp_path / "validation", num=2)

    class Entry:
        def __init__(self, entry):
            self._entry = entry

        def __getattr__(self, name):
            return getattr(self._entry, name)

        def inode(self):
            return 0xFFFFFFFF

    class Scan(list):
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    real = os.scandir
    monkeypatch.setattr(walk.os, "scandir", lambda path: Scan(map(Entry, real(path))))
    source = open_(tmp_path)
    assert sizes(source) == {"train": 20, "validation": 4, "test": 8}
    assert source.notes == ()


def test_folders_of_storage_systems_are_skipped_and_counted(tmp_path):
    fill(tmp_path / "train")
    for name in ("cat/@eaDir", "dog/@eaDir", "cat/more/.thumbnails", "__MACOSX", "@Recycle"):
        fill(tmp_path / "train", (name,), num=2)
    source = open_(tmp_path)
    assert source.classes == ("cat", "dog")
    assert sum(sizes(source).values()) == 20
    (note,) = source.notes
    assert "train: 5 folders skipped (2 @eaDir, 1 " in note
    for name in (".thumbnails", "__MACOSX", "@Recycle"):
        assert f"1 {name}" in note


def test_what_is_no_file_and_what_is_outside_of_the_classes_is_left_out(tmp_path):
    fill(tmp_path / "train")
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "loose.png")
    source = open_(tmp_path)
    assert sum(sizes(source).values()) == 20
    (note,) = source.notes
    assert "2 files left out" in note
    assert "1 not a regular file" in note
    assert "1 images outside the class folders" in note


def test_classes_that_are_numbers_stand_in_their_order_as_in_lists(tmp_path):
    names = [str(number) for number in range(1, 13)]
    fill(tmp_path / "train", names, num=2)
    source = open_(tmp_path)
    assert source.classes == tuple(names)
    for split in source.splits.values():
        assert [path.split("/")[-2] for path in split.paths] == [names[i] for i in split.labels]


def test_blanks_around_the_name_of_a_class_folder_do_not_count(tmp_path):
    fill(tmp_path / "train", ("cat ", "cat", "dog"), num=10)
    fill(tmp_path / "test", ("dog ",), num=2)
    source = open_(tmp_path)
    assert source.classes == ("cat", "dog")
    splits = source.splits
    labels = [splits[name].labels for name in ("train", "validation")]
    assert np.bincount(np.concatenate(labels)).tolist() == [20, 10]
    assert splits["test"].labels.tolist() == [1, 1]


def test_class_folders_without_train_are_accepted_with_a_part_held_out(tmp_path):
    fill(tmp_path / "one" / "train", num=50)
    fill(tmp_path / "other", num=50)
    one, other = open_(tmp_path / "one"), open_(tmp_path / "other")
    assert one.classes == other.classes == ("cat", "dog")
    for name in ("train", "validation"):
        parts = [
            [path.split("/")[-2:] for path in source.splits[name].paths] for source in (one, other)
        ]
        assert parts[0] == parts[1]
    (note,) = other.notes
    assert "other has no folder train/. Its 2 folders are the classes" in note


@pytest.mark.parametrize("below", ["train/cat", "train", "test/dog"])
def test_a_path_into_the_data_set_suggests_the_data_set(tmp_path, monkeypatch, below):
    photos = tmp_path / "photos"
    fill(photos / "train")
    fill(photos / "test")
    for path in (photos / below, f"photos/{below}", "."):
        monkeypatch.chdir(photos / below if path == "." else tmp_path)
        shown = "photos" if str(path).startswith("photos") else photos
        if below == "train":
            (note,) = open_(path).notes
            assert "is one split of a data set" in note
            assert f"Set data.path={shown} to use" in note
        else:
            with pytest.raises(DataError, match=rf"Did you mean data\.path={shown}\?"):
                open_(path)


def test_a_folder_must_be_named():
    with pytest.raises(SettingsError, match=r"data\.path=FOLDER"):
        open_source(DataConfig(source="image_folder"), 0)
