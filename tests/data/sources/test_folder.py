"""Image folders: what is found in them, and what a wrong one is told."""

import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
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
    assert not source.notes


def test_files_of_other_kinds_are_left_out_and_told(tmp_path):
    fill(tmp_path / "train")
    (tmp_path / "train" / "cat" / "a.heic").write_text("x")
    (tmp_path / "train" / "cat" / "readme").write_text("x")
    (note,) = open_(tmp_path).notes
    assert "2 files left out" in note
    assert ".heic" in note


def link(path, target):
    path.symlink_to(target)
    return rf"{path} is a link to {target}, out of .*data\.links_out=true"


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
    return "is no folder"


def case_no_train(root):
    fill(root)
    return r"has no folder train/.*cat, dog.*move them"


def case_no_classes(root):
    (root / "train").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(root / "train" / "a.png")
    return r"train has no folder in it"


def case_one_class(root):
    fill(root / "train", ("cat",))
    return r"one class only, 'cat'"


def case_empty_class(root):
    fill(root / "train")
    (root / "train" / "eel").mkdir()
    return r"class folder .*eel has no image"


def case_other_kind(root):
    fill(root / "train")
    (root / "train" / "eel").mkdir()
    (root / "train" / "eel" / "a.svg").write_text("x")
    return r"eel has no image in it \(1 \.svg found\)"


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
    return r"test has no image"


@pytest.mark.parametrize("case", [v for k, v in sorted(globals().items()) if k.startswith("case_")])
def test_a_wrong_folder_is_told_what_is_wrong(tmp_path, case):
    root = tmp_path / "images"
    message = case(root)
    with pytest.raises(DataError, match=message) as error:
        open_(root)
    assert str(root) in str(error.value)


def test_links_within_the_folder_and_allowed_ones_are_followed(tmp_path):
    fill(tmp_path / "images" / "train", num=10)
    fill(tmp_path / "elsewhere", ("eel",), num=10)
    (tmp_path / "images" / "train" / "cat" / "again.png").symlink_to("000.png")
    (tmp_path / "link to all").symlink_to("images")  # the data set itself may be reached by a link
    assert sum(s.num_examples for s in open_(tmp_path / "link to all").splits.values()) == 21
    (tmp_path / "images" / "train" / "eel").symlink_to(tmp_path / "elsewhere" / "eel")
    source = open_(tmp_path / "images", links_out=True)
    assert source.classes == ("cat", "dog", "eel")
    assert sum(split.num_examples for split in source.splits.values()) == 31


def test_a_folder_must_be_named():
    with pytest.raises(SettingsError, match=r"data\.path=FOLDER"):
        open_source(DataConfig(source="image_folder"), 0)
