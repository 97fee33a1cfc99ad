"""Data sets in memory: what is in them, what is held out, and what a wrong one is told."""

import gzip
import io
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.sources.arrays import CIFAR100_CLASSES
from pipeline.data.sources.source import DataSource, Split, measure_normalization, open_source
from pipeline.data.split import hash_all, hold_out, hold_out_by_name, hold_out_last
from pipeline.errors import DataError, SettingsError

RNG = np.random.default_rng(0)


def write_archive(folder, kind="cifar10", images=20, labels=None, protocol=2):
    """An archive in the original form, filled with noise."""
    top, key = ("cifar-10-batches-py", b"labels")
    names, meta = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"], "batches.meta"
    content = {meta: {b"label_names": [b"class %d" % i for i in range(10)]}}
    if kind == "cifar100":
        top, key, names, meta = "cifar-100-python", b"fine_labels", ["train", "test"], "meta"
        content = {meta: {b"fine_label_names": [name.encode() for name in CIFAR100_CLASSES]}}
    for name in names:
        data = RNG.integers(0, 256, (images, 3072), np.uint8)
        content[name] = {b"data": data, key: list(range(images)) if labels is None else labels}
        if labels is None:
            content[name][key] = [i % 10 for i in range(images)]
    path = folder / {"cifar10": "cifar-10-python.tar.gz"}.get(kind, "cifar-100-python.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        for name, value in content.items():
            stored = pickle.dumps(value, protocol)
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(stored)
            archive.addfile(member, io.BytesIO(stored))
    return path, content


def write_idx(folder, packed=True, num=(30, 10), labels=None):
    folder.mkdir(exist_ok=True)
    written = {}
    for part, count in zip(("train", "t10k"), num, strict=True):
        images = RNG.integers(0, 256, (count, 28, 28), np.uint8)
        marks = np.arange(count, dtype=np.uint8) % 10 if labels is None else labels
        files = {
            f"{part}-images-idx3-ubyte": struct.pack(">4B3i", 0, 0, 8, 3, *images.shape)
            + images.tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">4Bi", 0, 0, 8, 1, len(marks))
            + marks.tobytes(),
        }
        for name, content in files.items():
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        written[part] = images
    return written


@pytest.mark.processes
def test_opening_a_source_does_not_import_tensorflow():
    code = (
        "import sys; from pipeline.config import DataConfig; "
        "from pipeline.data.sources.source import open_source; "
        "open_source(DataConfig(source='synthetic'), 0); sys.exit('tensorflow' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_digits_are_scikit_learns_divided_in_three():
    from sklearn.datasets import load_digits

    source = open_source(DataConfig(source="digits"), 0)
    parts = [source.splits[name] for name in ("train", "validation", "test")]
    assert sum(part.num_examples for part in parts) == 1797
    assert 0.17 < parts[2].num_examples / 1797 < 0.23
    ours = sorted((p.images[i].tobytes(), p.labels[i]) for p in parts for i in range(len(p.labels)))
    data, labels = load_digits(return_X_y=True)
    gray = np.round(data / 16 * 255).astype(np.uint8).reshape(-1, 8, 8, 1).repeat(3, -1)
    theirs = sorted((image.tobytes(), label) for image, label in zip(gray, labels, strict=True))
    assert ours == theirs
    assert source.classes == tuple("0123456789")
    assert source.image_shape == (8, 8, 3)


def test_the_division_is_the_same_every_time_and_never_touches_the_test_split():
    first = open_source(DataConfig(source="digits"), 0)
    other = open_source(DataConfig(source="digits", validation_fraction=0.3), 5)
    test = first.splits["test"].images
    np.testing.assert_array_equal(test, other.splits["test"].images)
    held = {image.tobytes() for image in first.splits["validation"].images}
    more = {image.tobytes() for image in other.splits["validation"].images}
    train = {image.tobytes() for image in first.splits["train"].images}
    assert held < more  # a larger fraction adds to what is held out
    assert not held & train
    assert not (held | train) & {image.tobytes() for image in test}


def test_the_last_part_is_that_of_keras():
    assert hold_out_last(45, 0.1).tolist() == [False] * 40 + [True] * 5  # int(45 * 0.9) = 40
    source = open_source(DataConfig(source="digits", validation_split="last"), 0)
    train, held = source.splits["train"].num_examples, source.splits["validation"].num_examples
    assert train == int((train + held) * 0.9)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_the_last_part_of_each_class_is_held_out_in_any_order_of_the_labels(fraction):
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(0, 40, 700), [90, 91, 91]]).astype(np.int32)
    rng.shuffle(labels)
    expected = np.zeros(len(labels), bool)
    for label in set(labels.tolist()):
        places = np.flatnonzero(labels == label)
        if len(places) > 1:
            expected[places[int(len(places) * (1.0 - fraction)) :]] = True
    config = DataConfig(validation_split="last", validation_fraction=fraction)
    assert hold_out_by_name((), labels, config, "set").tolist() == expected.tolist()


def test_holding_out_the_last_of_many_classes_does_not_search_for_each_of_them(monkeypatch):
    searches = []
    real = np.flatnonzero
    monkeypatch.setattr(np, "flatnonzero", lambda array: searches.append(1) or real(array))
    labels = np.repeat(np.arange(300, dtype=np.int32), 2)
    config = DataConfig(validation_split="last")
    assert hold_out_by_name((), labels, config, "set").tolist() == [False, True] * 300
    assert len(searches) < 10


def test_duplicates_stay_on_one_side():
    contents = [bytes([i % 50]) for i in range(500)]
    labels = np.arange(500, dtype=np.int32) % 2
    held = hold_out(hash_all(contents, "validation"), labels, 0.3, "x")
    assert not {contents[i] for i in np.flatnonzero(held)} & {
        contents[i] for i in np.flatnonzero(~held)
    }


def test_the_held_out_part_has_about_the_size_asked_for():
    hashes = hash_all((str(i).encode() for i in range(20_000)), "validation")
    held = hold_out(hashes, np.zeros(20_000, np.int32), 0.1, "x")
    assert abs(held.mean() - 0.1) < 5 * np.sqrt(0.09 / 20_000)
    other = hash_all((str(i).encode() for i in range(20_000)), "test")
    assert abs(np.corrcoef(hashes.astype(float), other.astype(float))[0, 1]) < 5 / np.sqrt(20_000)


def test_small_sets_keep_an_example_of_each_class_and_hold_one_out():
    for start in range(200):
        hashes = hash_all((str(start + i).encode() for i in range(6)), "validation")
        labels = np.array([0, 0, 0, 1, 1, 2], np.int32)
        held = hold_out(hashes, labels, 0.4, "x")
        assert held.any()
        assert set(labels[~held]) == {0, 1, 2}


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="too few"):
        hold_out(hash_all([b"a", b"a"], "validation"), np.zeros(2, np.int32), 0.5, "x")


def test_synthetic_images_depend_on_the_seed_alone_and_can_be_learned():
    config = DataConfig(source="synthetic", num_classes=5, num_examples=200, image_size=12)
    first, again, other = (open_source(config, seed) for seed in (0, 0, 1))
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(first.splits[name].images, again.splits[name].images)
    assert (first.splits["train"].images != other.splits["train"].images).any()
    train, test = first.splits["train"], first.splits["test"]
    assert train.num_examples == 200
    assert train.images.shape == (200, 12, 12, 3)
    means = np.stack([train.images[train.labels == c].mean(0) for c in range(5)])
    distance = ((test.images[:, None] - means) ** 2).sum((2, 3, 4))
    assert (distance.argmin(1) == test.labels).mean() == 1.0


def test_synthetic_images_that_do_not_fit_are_refused():
    config = DataConfig(source="synthetic", num_examples=10_000_000, image_size=224)
    with pytest.raises(SettingsError, match="GiB"):
        open_source(config, 0)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
@pytest.mark.parametrize("where", ["archive", "parent", "unpacked", "folder"])
def test_cifar_is_read_from_its_original_form(tmp_path, kind, where):
    archive, content = write_archive(tmp_path, kind)
    path = {"archive": archive, "parent": tmp_path}.get(where)
    if path is None:
        path = tmp_path / "unpacked"
        with tarfile.open(archive) as opened:
            opened.extractall(path, filter="data")
        if where == "folder":
            path = next(path.iterdir())
    source = open_source(DataConfig(source=kind, path=str(path), validation_split="last"), 0)
    test = content["test_batch" if kind == "cifar10" else "test"][b"data"]
    red = test.reshape(-1, 3, 1024)[:, 0].reshape(-1, 32, 32)
    np.testing.assert_array_equal(source.splits["test"].images[..., 0], red)
    assert source.splits["test"].labels.tolist() == [i % 10 for i in range(20)]
    assert source.splits["test"].labels.dtype == np.int32
    assert source.classes[1] == ("class 1" if kind == "cifar10" else "aquarium_fish")
    num_train = 100 if kind == "cifar10" else 20
    assert source.splits["train"].num_examples == num_train * 9 // 10
    first = content["data_batch_1" if kind == "cifar10" else "train"][b"data"][0]
    np.testing.assert_array_equal(
        source.splits["train"].images[0], first.reshape(3, 32, 32).transpose(1, 2, 0)
    )


def test_there_are_a_hundred_class_names():
    assert len(set(CIFAR100_CLASSES)) == 100
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)


def test_a_label_out_of_range_is_refused(tmp_path):
    write_archive(tmp_path, labels=[0, 1, 10, 3, 4], images=5)
    with pytest.raises(DataError, match=r"cifar10, train: the label of example 2 .* 0\.\.9.* 10"):
        open_source(DataConfig(source="cifar10", path=str(tmp_path)), 0)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    _, content = write_archive(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value, 2))
    trace = tmp_path / "trace"
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Malicious(str(trace))}, protocol))
    with pytest.raises(DataError, match=r"test_batch.*refused"):
        open_source(DataConfig(source="cifar10", path=str(folder)), 0)
    assert not trace.exists()


def _doubled(depth=40):
    """Lists that hold one another twice: 2^40 numbers, should somebody look at all."""
    value = [1]
    for _ in range(depth):
        value = [value, value]
    return value


FORGED = {
    "lists of lists as labels": ("test_batch", b"labels", _doubled(), "a list of integers"),
    "too large a label": ("test_batch", b"labels", [2**70] * 20, "OverflowError"),
    "lists of lists as images": ("test_batch", b"data", _doubled(), "an array of bytes"),
    "other numbers as images": ("test_batch", b"data", np.zeros([20, 3072], "i2"), "an array of"),
    "lists of lists as names": ("batches.meta", b"label_names", _doubled(), "a list of texts"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_member_of_a_cifar_archive_is_named(tmp_path, name):
    member, key, value, message = FORGED[name]
    archive, content = write_archive(tmp_path)
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    content[member][key] = value
    (tmp_path / "cifar-10-batches-py" / member).write_bytes(pickle.dumps(content[member], 2))
    with pytest.raises(DataError, match=message):
        open_source(DataConfig(source="cifar10", path=str(tmp_path)), 0)


@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_a_damaged_archive_is_named(tmp_path, damage):
    path, _ = write_archive(tmp_path)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:20_000] if damage == "cut" else b"not found")
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz"):
        open_source(DataConfig(source="cifar10", path=str(tmp_path)), 0)


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_is_read_from_idx_files(tmp_path, packed):
    written = write_idx(tmp_path, packed)
    source = open_source(DataConfig(source="fashion_mnist", path=str(tmp_path)), 0)
    test = source.splits["test"]
    np.testing.assert_array_equal(test.images, written["t10k"][..., None].repeat(3, -1))
    assert test.labels.tolist() == list(range(10))
    assert source.classes[9] == "Ankle boot"
    parts = source.splits["train"].num_examples + source.splits["validation"].num_examples
    assert parts == 30


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda c: c[:-1], "must contain"),
        ("t10k-labels-idx1-ubyte", lambda c: b"\0\0\x0d\1" + c[4:], "not an idx file"),
        ("t10k-labels-idx1-ubyte", lambda c: c[:8] + bytes([200] * 10), "label of example 0"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, name, change, message):
    write_idx(tmp_path, packed=False)
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(DataError, match=message):
        open_source(DataConfig(source="fashion_mnist", path=str(tmp_path)), 0)


def test_an_idx_file_that_unpacks_to_gigabytes_is_refused(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(2**29 + 1), 1))
    with pytest.raises(DataError, match=r"train-images.*more than 536,870,912 bytes"):
        open_source(DataConfig(source="fashion_mnist", path=str(tmp_path)), 0)


def test_a_broken_gzip_and_a_missing_file_are_named(tmp_path):
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=str(path.name)):
        open_source(DataConfig(source="fashion_mnist", path=str(tmp_path)), 0)
    path.unlink()
    with pytest.raises(DataError, match=r"contains neither train-images-idx3-ubyte"):
        open_source(DataConfig(source="fashion_mnist", path=str(tmp_path)), 0)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "fashion_mnist"])
def test_a_failed_download_says_which_file_to_put_where(monkeypatch, kind):
    import keras

    def fail():
        raise Exception("URL fetch failure: no route")  # what Keras raises

    monkeypatch.setattr(getattr(keras.datasets, kind), "load_data", fail)
    with pytest.raises(DataError, match=r"no route.*https://.*data\.path"):
        open_source(DataConfig(source=kind), 0)


def test_what_keras_downloads_is_read(monkeypatch):
    import keras

    images, labels = np.zeros((40, 32, 32, 3), np.uint8), np.arange(40)[:, None] % 10
    images += RNG.integers(0, 256, images.shape, np.uint8)
    monkeypatch.setattr(
        keras.datasets.cifar10, "load_data", lambda: ((images, labels), (images[:10], labels[:10]))
    )
    source = open_source(DataConfig(source="cifar10"), 0)
    assert source.splits["test"].labels.tolist() == list(range(10))
    assert source.classes[0] == "airplane"
    assert source.image_shape == (32, 32, 3)


def test_a_path_that_would_be_ignored_is_refused():
    with pytest.raises(SettingsError, match=r"data\.source=image_folder"):
        open_source(DataConfig(source="digits", path="mine"), 0)


def test_constants_are_those_of_the_field():
    source = DataSource(("a", "b"), {})
    assert measure_normalization(source, DataConfig()) == ((0.5,) * 3, (0.5,) * 3)
    mean, std = measure_normalization(source, DataConfig(normalize="imagenet"))
    assert mean == (0.485, 0.456, 0.406)
    assert std == (0.229, 0.224, 0.225)


def test_normalization_of_arrays_is_numpys_mean_and_deviation():
    images = RNG.integers(0, 256, (3000, 4, 5, 3), np.uint8)
    images[..., 2] = 7
    source = DataSource(("a", "b"), {"train": Split(np.zeros(3000, np.int32), images)})
    mean, std = measure_normalization(source, DataConfig(normalize="dataset"))
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-9)
    np.testing.assert_allclose(std[:2], images[..., :2].std((0, 1, 2)) / 255, rtol=1e-9)
    assert std[2] == 1 / 255  # a color that never changes is not divided by zero


def test_normalization_of_files_is_that_of_their_pixels(tmp_path):
    images = RNG.integers(0, 256, (9, 8, 8, 3), np.uint8)
    paths = [str(tmp_path / f"{i}.png") for i in range(10)]
    for image, path in zip(images, paths, strict=False):
        Image.fromarray(image).save(path)
    Path(paths[9]).write_text("no image")
    source = DataSource(("a", "b"), {"train": Split(np.zeros(10, np.int32), paths=paths)})
    config = DataConfig(normalize="dataset", image_size=8, resize="none", on_bad_image="skip")
    mean, std = measure_normalization(source, config)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-9)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255, rtol=1e-9)
    with pytest.raises(DataError, match=r"9\.png"):
        measure_normalization(source, config.model_copy(update={"on_bad_image": "raise"}))


@pytest.mark.parametrize(
    "fields", [{}, {"images": np.zeros((2, 4, 4, 3), np.uint8), "paths": ["a", "b"]},
               {"paths": ["a"]}, {"images": np.zeros((2, 4, 4), np.uint8)}]
)  # fmt: skip
def test_a_split_holds_either_images_or_paths(fields):
    with pytest.raises(ValueError, match="must"):
        Split(np.zeros(2, np.int32), **fields)


@pytest.mark.parametrize("source", ["records", "tfrecord", "list", "cifar10"])
def test_a_path_of_another_kind_is_told_its_source(tmp_path, source):
    for name in ("cat", "dog"):
        folder = tmp_path / "photos" / "train" / name
        folder.mkdir(parents=True)
        (folder / "1.png").touch()
    config = DataConfig(source=source, path=str(tmp_path / "photos"))
    with pytest.raises(
        DataError, match=r"has another format: set data\.source=image_folder"
    ) as told:
        open_source(config, 0)
    assert ("`vit prepare " in str(told.value)) == (source == "records")


def test_a_path_for_a_data_set_without_one_is_told_its_source(tmp_path):
    (tmp_path / "a.csv").write_text("path,label\na.png,1\n")
    with pytest.raises(SettingsError, match=r"set data\.source=list"):
        open_source(DataConfig(source="digits", path=str(tmp_path / "a.csv")), 0)


def test_a_path_that_does_not_exist_is_told_so():
    with pytest.raises(DataError, match=r"gone does not exist\. Name a folder that `vit prepare`"):
        open_source(DataConfig(source="records", path="gone"), 0)
