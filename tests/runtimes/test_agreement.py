"""What all processes do together ends alike on all of them, whatever goes wrong on one."""

import threading

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Config, DataConfig
from pipeline.data.sources import tfrecord_index
from pipeline.data.sources.source import open_source
from pipeline.data.split import DataSource, Split
from pipeline.doctor.examine import _compare_data
from pipeline.errors import DataError
from pipeline.runs.folder import RunFolder
from pipeline.runtimes.agreement import check_same, on_all, on_chief
from pipeline.training import data_opening
from pipeline.training.data_opening import open_data
from pipeline.training.trained_run import open_evaluation_data
from tests.data.prepared import write_tfrecord
from tests.runtimes.ranks import on_ranks


def fail(error):
    raise error


def test_what_the_chief_finds_reaches_all():
    calls = []
    found = on_ranks(lambda runtime: on_chief(runtime, lambda: calls.append(1) or {"a": [1.5]}))
    assert found == [{"a": [1.5]}] * 3
    assert calls == [1]


@pytest.mark.parametrize("error", [DataError("no data"), OSError(2, "gone"), ValueError("a bug")])
def test_an_error_of_the_chief_is_raised_by_all(error):
    found = on_ranks(lambda runtime: on_chief(runtime, lambda: fail(error)))
    assert all(isinstance(one, Exception) for one in found)
    assert not any(isinstance(one, threading.BrokenBarrierError) for one in found)
    assert {getattr(one, "exit_code", 1) for one in found} == {getattr(error, "exit_code", 1)}
    assert (found[0] is error) == isinstance(error, ValueError)  # shown with its traceback


def test_an_error_of_one_rank_is_raised_by_all_and_names_it():
    def work(runtime):
        return on_all(runtime, lambda: fail(DataError("no data")) if runtime.rank == 2 else 1)

    found = on_ranks(work)
    assert [one.exit_code for one in found] == [3, 3, 3]
    assert all(str(one).startswith("rank 2 on ") for one in found)
    assert all(str(one).endswith(": no data") for one in found)
    assert on_ranks(lambda runtime: on_all(runtime, lambda: runtime.rank)) == [0, 1, 2]


def test_the_same_error_of_all_ranks_is_said_once():
    found = on_ranks(lambda runtime: on_all(runtime, lambda: fail(DataError("no data"))))
    assert [str(one) for one in found] == ["no data"] * 3


def test_facts_that_differ_name_the_ranks_and_what_differs():
    def work(runtime):
        facts = {"count": 3 if runtime.rank == 1 else 2}
        return check_same(
            runtime, facts, lambda a, b: [f"{a['count']} and {b['count']}"], "data", "Copy it"
        )

    found = on_ranks(work)
    assert len({str(one) for one in found}) == 1
    assert [one.exit_code for one in found] == [3, 3, 3]
    text = str(found[0])
    assert "rank 1 on " in text
    assert "rank 2" not in text
    assert "2 and 3" in text
    assert text.endswith("Copy it")


def fill(root, classes=("cat", "dog"), num=12):
    for name in classes:
        (root / "train" / name).mkdir(parents=True, exist_ok=True)
        for i in range(num):
            Image.new("RGB", (4, 4), (i, len(name), ord(name[0]))).save(
                root / "train" / name / f"{i}.png"
            )
    return root


def open_on_ranks(roots, **data):
    def work(runtime):
        config = DataConfig(source="image_folder", path=str(roots[runtime.rank]), **data)
        return open_data(Config(data=config), runtime)

    return on_ranks(work, len(roots))


def other_class(root):
    fill(root, ("cat", "eel"))
    return "classes: only on rank 0: dog; only on this rank: eel"


def fewer_images(root):
    fill(root)
    (root / "train" / "cat" / "3.png").unlink()
    return "train: 20 images on rank 0, 19 on this rank"


def other_names(root):
    fill(root)
    (root / "train" / "cat" / "3.png").rename(root / "train" / "cat" / "31.png")
    return "train: the same number of images, but with other names or labels, or in another order"


def other_sizes(root):
    fill(root)
    with open(root / "train" / "cat" / "3.png", "ab") as file:
        file.write(b"more")
    return "1 of 20 compared files have other sizes: "


@pytest.mark.parametrize("change", [other_class, fewer_images, other_names, other_sizes])
def test_ranks_with_other_data_are_refused(tmp_path, change):
    first = fill(tmp_path / "0")
    message = change(tmp_path / "1")
    found = open_on_ranks([first, tmp_path / "1", first], validation_split="last")
    assert [one.exit_code for one in found] == [3, 3, 3]
    assert message in str(found[0])
    assert "rank 1 on " in str(found[0])


@pytest.mark.parametrize("change", ["pixels", "normalization"])
def test_ranks_with_other_pixels_or_another_normalization_are_refused(change):
    def work(runtime):
        level = runtime.rank if change == "pixels" else 0
        mean = (0.25 * (1 + runtime.rank),) * 3 if change == "normalization" else (0.5,) * 3
        split = Split(np.zeros(2, np.int32), np.full((2, 4, 4, 3), level, np.uint8))
        source = DataSource(("cat",), {"train": split}, normalization=(mean, (0.5,) * 3))
        data_opening.check_data(runtime, source)

    found = on_ranks(work, 2)
    assert [one.exit_code for one in found] == [3, 3]
    message = {"pixels": "the same number of images", "normalization": "mean and deviation: "}
    assert message[change] in str(found[0])


def test_the_doctor_compares_the_data_of_ranks_that_have_some(tmp_path):
    fill(tmp_path / "0")
    other_names(tmp_path / "1")

    def work(runtime, empty):
        config = DataConfig(source="image_folder", path=str(tmp_path / str(runtime.rank)))
        return _compare_data(runtime, None if runtime.rank in empty else open_source(config, 0))

    found = on_ranks(lambda runtime: work(runtime, ()), 2)
    assert [one.exit_code for one in found] == [3, 3]
    assert on_ranks(lambda runtime: work(runtime, (1,)), 2) == [(), ()]


def test_a_rank_that_evaluates_other_images_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    facts = {"classes": ["cat", "dog"], "examples": {}, "mean": [0.5] * 3, "std": [0.5] * 3}
    folder.begin(facts, {})
    fill(tmp_path / "0")
    other_names(tmp_path / "1")

    def work(runtime):
        config = DataConfig(source="image_folder", path=str(tmp_path / str(runtime.rank)))
        return open_evaluation_data(folder, Config(data=config), runtime)

    found = on_ranks(work, 2)
    assert [one.exit_code for one in found] == [3, 3]
    assert "rank 1 on " in str(found[0])


def test_colors_are_measured_by_the_chief_alone(tmp_path, monkeypatch):
    fill(tmp_path)
    measured = []
    real = data_opening.measure_normalization

    def measure(source, config):
        measured.append(1)
        return real(source, config)

    monkeypatch.setattr(data_opening, "measure_normalization", measure)
    found = open_on_ranks([tmp_path] * 3, normalize="dataset")
    assert len(measured) == 1
    assert len({tuple(mean) + tuple(std) for _, mean, std in found}) == 1
    alone = real(
        found[0][0], DataConfig(source="image_folder", path=str(tmp_path), normalize="dataset")
    )
    assert found[2][1:] == alone


def test_an_image_that_the_chief_cannot_read_ends_all_alike(tmp_path):
    fill(tmp_path)
    for file in (tmp_path / "train").rglob("*.png"):
        file.write_bytes(b"no image")
    found = open_on_ranks([tmp_path] * 3, normalize="dataset")
    assert [one.exit_code for one in found] == [3, 3, 3]


def test_tfrecord_files_are_scanned_by_the_chief_alone(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("validation", 8)):
        for i in range(2):
            images = [rng.bytes(int(n)) for n in rng.integers(50, 900, count)]
            write_tfrecord(
                tmp_path / f"{split}-{i:05d}-of-00002", images, [j % 3 for j in range(count)]
            )
    scans = []
    real = tfrecord_index.scan
    monkeypatch.setattr(tfrecord_index, "scan", lambda *a: scans.append(a) or real(*a))
    (tmp_path / "file").touch()  # no place for the index: it is not kept
    data = DataConfig(source="tfrecord", path=str(tmp_path), index_path=str(tmp_path / "file"))
    found = on_ranks(lambda runtime: open_data(Config(data=data), runtime), 3)
    assert len(scans) == 4
    splits = [source.splits for source, *_ in found]
    for name, split in splits[0].items():
        for other in splits[1:]:
            assert np.array_equal(split.labels, other[name].labels)
            order = np.arange(split.num_examples)
            assert split.contents(order) == other[name].contents(order)


def test_tfrecord_files_that_differ_from_those_of_the_chief_are_refused(tmp_path):
    for root, count in (("0", 10), ("1", 11)):
        images = [b"x" * 50] * count
        write_tfrecord(
            tmp_path / root / "train-00000-of-00001", images, [i % 2 for i in range(count)]
        )

    def work(runtime):
        data = DataConfig(source="tfrecord", path=str(tmp_path / str(runtime.rank)))
        return open_data(Config(data=data), runtime)

    found = on_ranks(work, 2)
    assert [one.exit_code for one in found] == [3, 3]
    assert "rank 1 on " in str(found[0])
    assert "train-00000-of-00001 has " in str(found[0])


def test_tfrecord_files_of_the_same_sizes_and_other_records_are_refused(tmp_path):
    for root in ("0", "1"):
        images = [root.encode() * 50] * 10
        write_tfrecord(tmp_path / root / "train-00000-of-00001", images, [i % 2 for i in range(10)])

    def work(runtime):
        data = DataConfig(source="tfrecord", path=str(tmp_path / str(runtime.rank)))
        return open_data(Config(data=data), runtime)

    found = on_ranks(work, 2)
    assert [one.exit_code for one in found] == [3, 3]
    assert "train-00000-of-00001 has different records here than on rank 0" in str(found[0])


def test_a_rank_without_the_data_ends_all(tmp_path):
    found = open_on_ranks([fill(tmp_path / "0"), tmp_path / "gone"])
    assert [one.exit_code for one in found] == [3, 3]
    assert "rank 1 on " in str(found[0])
    assert "is not a folder" in str(found[0])
