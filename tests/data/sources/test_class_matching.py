"""Opening another data set with the classes of a model: classes are matched by name."""

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.sources.class_matching import open_with_model_classes
from pipeline.errors import DataError, SettingsError

CLASSES = ["zebra", "ant", "owl"]  # not in the order of an image folder
CONFIG = DataConfig(source="image_folder", path="/gone", image_size=8)


def fill(folder, **counts):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / name / f"{i}.png")
    return folder


def named(split):
    return {path.rsplit("/", 2)[-2] + str(label) for path, label in zip(
        split.paths, split.labels.tolist(), strict=True)}  # fmt: skip


def test_class_folders_without_splits_become_one_split(tmp_path):
    fill(tmp_path, owl=2, zebra=3)
    found = open_with_model_classes(str(tmp_path), CONFIG, CLASSES)
    assert list(found.splits) == ["all"]
    assert found.classes == tuple(CLASSES)
    assert named(found.splits["all"]) == {"zebra0", "owl2"}
    assert found.splits["all"].num_examples == 5


def test_a_test_folder_alone_is_the_test_split(tmp_path):
    fill(tmp_path / "test", ant=2)
    found = open_with_model_classes(str(tmp_path), CONFIG, CLASSES)
    assert named(found.splits["test"]) == {"ant1"}


def test_a_whole_image_folder_in_another_order_is_matched_by_name(tmp_path):
    fill(tmp_path / "train", ant=4, owl=4, zebra=4)
    fill(tmp_path / "test", ant=2, zebra=1)
    found = open_with_model_classes(str(tmp_path), CONFIG, CLASSES)
    assert set(found.splits) == {"train", "validation", "test"}
    assert named(found.splits["test"]) == {"ant1", "zebra0"}
    assert named(found.splits["train"]) <= {"ant1", "zebra0", "owl2"}


def test_a_list_of_images_is_recognized(tmp_path):
    fill(tmp_path / "images", owl=3, ant=3)
    lines = [f"images/{n}/{i}.png,{n},{s}" for n in ("owl", "ant") for i, s in
             enumerate(("train", "train", "test"))]  # fmt: skip
    (tmp_path / "all.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    found = open_with_model_classes(str(tmp_path / "all.csv"), CONFIG, CLASSES)
    assert named(found.splits["test"]) == {"owl2", "ant1"}


@pytest.mark.parametrize("below", [".", "train"])
def test_a_class_that_the_model_does_not_know_is_named(tmp_path, below):
    fill(tmp_path / below, ant=3, yak=3)
    with pytest.raises(DataError, match="yak"):
        open_with_model_classes(str(tmp_path), CONFIG, CLASSES)


def test_a_missing_data_set_is_reported(tmp_path):
    with pytest.raises(SettingsError, match="does not exist"):
        open_with_model_classes(str(tmp_path / "gone"), CONFIG, CLASSES)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no folder"):
        open_with_model_classes(str(tmp_path), CONFIG, CLASSES)


def test_a_run_with_the_order_of_classes_of_earlier_versions_is_matched_by_name(tmp_path):
    fill(tmp_path / "train", **{"1": 4, "2": 4, "10": 4})
    fill(tmp_path / "test", **{"2": 1, "10": 1, " blue": 1})
    fill(tmp_path / "train", blue=4)
    own = CONFIG.model_copy(update={"path": str(tmp_path)})
    classes = ["1", "10", "2", "blue "]  # by code point, with the blanks of a folder's name
    found = open_with_model_classes(str(tmp_path), own, classes)
    assert found.classes == tuple(classes)
    assert named(found.splits["test"]) == {"22", "101", " blue3"}
