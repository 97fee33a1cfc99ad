"""Prepared sets: what is written, what becomes of bad images, and going on after a stop."""

import hashlib
import io
import json
import os
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.config import DataConfig
from pipeline.data.decode.pillow_image import read_image
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.encode import encode_image, to_png
from pipeline.data.prepare.summary import summarize
from pipeline.data.prepare.verify import verify
from pipeline.data.sources.find_source import find_source
from pipeline.data.sources.records import read_facts
from pipeline.data.sources.source import open_source
from pipeline.errors import DataError, SettingsError
from tests.data.decode.test_integrity import REPAIRED
from tests.data.prepared import CLASSES, in_this_process, make_folder, prepare_into, write_tfrecord


def open_(out, **settings):
    return open_source(DataConfig(source="records", path=str(out), **settings), 0)


def pixels_of(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip_bit(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def second_shard(out):
    (file,) = out.glob("train-00001-of-*.arrayrecord")
    return file


def verified(out):
    return verify(out, 2, lambda count: None)[1]


@pytest.fixture(autouse=True)
def processes(request):
    """Only tests marked so write and verify in processes."""
    if "processes" in request.keywords:
        yield
    else:
        with in_this_process():
            yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("source") / "images")


@pytest.fixture
def prepared(folder, tmp_path):
    return prepare_into(tmp_path / "out", folder), tmp_path / "out"


def test_a_prepared_folder_holds_the_files_bytes_in_their_order(folder, prepared):
    facts, out = prepared
    before, after = open_source(folder, 0), open_(out)
    assert after.classes == before.classes
    assert list(after.splits) == list(before.splits)
    for name, split in before.splits.items():
        again = after.splits[name]
        np.testing.assert_array_equal(again.labels, split.labels)
        expected = [split.content(i) for i in range(split.num_examples)]
        assert again.contents(np.arange(split.num_examples)) == expected
    assert not (out / ".prepare").exists()
    assert facts == read_facts(out)


def test_dataset_json_says_what_numpy_finds(folder, prepared):
    facts, out = prepared
    train = open_source(folder, 0).splits["train"]
    pixels = np.stack([pixels_of(train.content(i)) for i in range(train.num_examples)]) / 255.0
    np.testing.assert_allclose(facts.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(facts.std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert open_(out).normalization == (facts.mean, facts.std)
    assert (facts.smallest, facts.largest) == ((9, 12), (9, 12))
    assert (facts.unreadable, facts.converted, facts.duplicates) == (0, 0, 0)
    assert facts.splits["test"].per_class == dict.fromkeys(CLASSES, 3)
    for split in facts.splits.values():
        assert sum(split.per_class.values()) == split.examples
        for shard in split.shards:
            content = (out / shard.file).read_bytes()
            assert len(content) == shard.size
            assert hashlib.sha256(content).hexdigest() == shard.sha256
            reader = ArrayRecordReader(str(out / shard.file))
            assert reader.num_records() == shard.examples <= 4
            reader.close()


def test_sets_in_memory_keep_their_pixels(tmp_path):
    facts = prepare_into(tmp_path / "out", DataConfig(source="digits"), shard_size=1000)
    before, after = open_source(DataConfig(source="digits"), 0), open_(tmp_path / "out")
    for name, split in before.splits.items():
        contents = after.splits[name].contents(np.arange(split.num_examples))
        np.testing.assert_array_equal([pixels_of(content) for content in contents], split.images)
    assert sum(split.examples for split in facts.splits.values()) == len(load_digits().target)


def test_tfrecords_and_lists_are_prepared(folder, tmp_path):
    train = open_source(folder, 0).splits["train"]
    contents = [train.content(i) for i in range(train.num_examples)]
    write_tfrecord(tmp_path / "tf" / "train-00000-of-00001", contents, train.labels)
    rows = [f"{path},{CLASSES[k]}" for path, k in zip(train.paths, train.labels, strict=True)]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(rows))
    for name in ("tf", "list.csv"):
        config = DataConfig(
            **find_source(str(tmp_path / name)), validation_fraction=0.3, links_out=True
        )
        prepare_into(tmp_path / f"{name} out", config)
        splits = open_(tmp_path / f"{name} out").splits.values()
        everything = [c for s in splits for c in s.contents(np.arange(s.num_examples))]
        assert sorted(everything) == sorted(contents)


def write_kinds(folder):
    """One image of each kind that is stored as something else; returns the pixels of most."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(pixels)
    frames = {"save_all": True, "append_images": [Image.new("RGB", (12, 9))]}
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12) * 600).save(folder / "16.png")
    image.save(folder / "moving.gif", **frames)
    image.save(folder / "moving.png", **frames)
    image.save(folder / "moving.webp", lossless=True, **frames)
    image.save(folder / "a.bmp")
    image.save(folder / "a.tiff")
    return pixels


def test_other_kinds_become_png(tmp_path):
    pixels = write_kinds(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        encoded = encode_image(path.read_bytes(), 10_000)
        assert encoded.converted, path
        with Image.open(io.BytesIO(encoded.content)) as stored:
            assert (stored.format, stored.mode) == ("PNG", "RGB")
            np.testing.assert_array_equal(np.asarray(stored), encoded.pixels)
        if path.name not in ("cmyk.jpg", "16.png", "moving.gif"):
            np.testing.assert_array_equal(encoded.pixels, pixels, err_msg=path.name)
    sixteen = encode_image((tmp_path / "16.png").read_bytes(), 10_000).pixels
    expected = (np.arange(108).reshape(9, 12) * 600) >> 8
    np.testing.assert_array_equal(sixteen, np.repeat(expected[..., None], 3, -1))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")],
)
def test_plain_images_stay_as_they_came(mode, kind):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    encoded = encode_image(stream.getvalue(), 10_000)
    assert encoded.content == stream.getvalue()
    assert not encoded.converted


def test_more_pixels_than_allowed_are_refused_before_they_are_decoded():
    stream = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(stream, "PNG")  # 900 million pixels in 110 kB
    with pytest.raises(UnreadableError, match=r"30000 x 30000 pixels, more than data\.max_pixels"):
        read_image(stream.getvalue(), 100_000_000)


def test_images_that_libjpeg_repairs_are_stored_counted_and_named(tmp_path):
    config = make_folder(tmp_path / "images")
    name = tmp_path / "images/train/cat/repaired.jpg"
    name.write_bytes(REPAIRED["zeros inside"])
    out = tmp_path / "out"
    facts = prepare_into(out, config)
    assert (facts.repaired, facts.unreadable, read_facts(out).repaired) == (1, 0, 1)
    (line,) = (out / "repaired.txt").read_text().splitlines()
    assert line.startswith(f"{name}\tCorrupt JPEG data")
    assert f"repaired damaged data of 1 images, which are used: {out}/repaired.txt" in summarize(
        facts, out
    )


BAD = ("bomb.png", "empty.png", "half.png", "nowhere.png", "text ü.jpg")


def spoil(root):
    """Puts the bad files among the good ones."""
    folder = root / "train" / "cat"
    whole = (folder / "000.png").read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text ü.jpg").write_text("no image")
    (folder / "nowhere.png").symlink_to(root / "missing.png")
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png")


def test_bad_images_are_all_named_or_all_left_out(tmp_path):
    config = make_folder(tmp_path / "images")
    spoil(tmp_path / "images")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"5 images cannot be read") as raised:
        prepare_into(out, config)
    listed = (out / "unreadable.txt").read_text().splitlines()
    assert sorted(line.split("\t")[0].rpartition("/")[2] for line in listed) == sorted(BAD)
    for name in BAD:
        assert f"/{name}: " in str(raised.value)
    assert not (out / "dataset.json").exists()
    facts = prepare_into(out, config.model_copy(update={"on_bad_image": "skip"}))
    assert facts.unreadable == 5
    assert sum(split.examples for split in facts.splits.values()) == 27
    assert (out / "unreadable.txt").read_text().splitlines() == listed
    for split in open_(out).splits.values():
        assert b"" not in split.contents(np.arange(split.num_examples))
    assert verified(out) == []


def test_images_of_two_splits_are_reported(tmp_path):
    config = make_folder(tmp_path / "images")
    train, test = tmp_path / "images" / "train", tmp_path / "images" / "test"
    Image.open(train / "cat" / "001.png").save(test / "dog" / "another name.bmp")
    facts = prepare_into(tmp_path / "out", config)
    (line,) = (tmp_path / "out" / "duplicates.txt").read_text().splitlines()
    assert line.split("\t")[1].endswith("train/cat/001.png")
    assert line.split("\t")[2:] == ["test", f"{test}/dog/another name.bmp"]
    assert (facts.duplicates, facts.conflicts) == (1, 1)
    (line,) = (tmp_path / "out" / "conflicts.txt").read_text().splitlines()
    assert line.split("\t")[::2] == ["cat", "dog"]
    assert line.split("\t")[1::2] == [f"{train}/cat/001.png", f"{test}/dog/another name.bmp"]
    splits, labels = open_(tmp_path / "out").notes
    assert "1 images are in more than one split (duplicates.txt)" in splits
    assert "1 images have two labels (conflicts.txt)" in labels


def test_a_set_from_before_conflicts_were_counted_is_read(tmp_path, folder):
    prepare_into(tmp_path / "out", folder)
    file = tmp_path / "out" / "dataset.json"
    facts = json.loads(file.read_text())
    assert open_(tmp_path / "out").compared
    del facts["conflicts"]
    file.write_text(json.dumps(facts))
    source = open_(tmp_path / "out")
    assert source.classes == CLASSES
    assert not source.compared  # images under two labels were not looked for


@pytest.mark.processes
def test_what_is_done_stays_done_unless_it_was_spoiled(tmp_path):
    config = make_folder(tmp_path / "images")
    out, once = tmp_path / "out", tmp_path / "once"
    bad = tmp_path / "images" / "test" / "eel" / "002.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:50])
    with pytest.raises(DataError):
        prepare_into(out, config)
    bad.write_bytes(good)
    shards = sorted(out.glob("*.arrayrecord"))
    times = {path: path.stat().st_mtime_ns for path in shards}
    flip_bit(shards[0], 4000)
    shards[1].unlink()
    prepare_into(out, config)
    again = [path.name for path in shards if path.stat().st_mtime_ns != times[path]]
    # The two that were spoiled, and the one whose image was replaced.
    assert again == [shards[0].name, shards[1].name, "test-00002-of-00003.arrayrecord"]
    prepare_into(once, config)
    # Its hash of inputs holds the time a file was written; the bytes are the same.
    assert json.loads((out / "dataset.json").read_text()) == json.loads(
        (once / "dataset.json").read_text()
    )
    assert bytes_of(out) == bytes_of(once)


def test_a_finished_set_is_left_alone(folder, prepared):
    facts, out = prepared
    before = bytes_of(out)
    assert prepare_into(out, folder) == facts
    with pytest.raises(DataError, match="already contains a prepared data set"):
        prepare_into(out, folder, shard_size=5)
    with pytest.raises(DataError, match="already contains a prepared data set"):
        prepare_into(out, DataConfig(source="digits"), shard_size=1000)
    assert bytes_of(out) == before


def test_a_finished_set_of_classes_that_have_other_names_now_is_another_set(folder, tmp_path):
    train = open_source(folder, 0).splits["train"]
    for names in (CLASSES, ("cat", "dog", "eel 2")):
        rows = [f"{path},{names[k]}" for path, k in zip(train.paths, train.labels, strict=True)]
        (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(rows))
        config = DataConfig(
            **find_source(str(tmp_path / "list.csv")), validation_fraction=0.3, links_out=True
        )
        if names is CLASSES:
            prepare_into(tmp_path / "out", config)
    with pytest.raises(DataError, match="already contains a prepared data set"):
        prepare_into(tmp_path / "out", config)


def test_files_of_others_are_left_alone(folder, tmp_path):
    (tmp_path / "out").mkdir()
    mine = ".session.tmp", ".notes.txt.tmp", "train-00000-of-00099.arrayrecord"
    for name in mine:
        (tmp_path / "out" / name).write_text("mine")
    left = tmp_path / "out" / ".dataset.json.0123456789abcdef.new"
    left.write_text("an earlier attempt's")
    prepare_into(tmp_path / "out", folder)
    assert all((tmp_path / "out" / name).read_text() == "mine" for name in mine)
    assert not left.exists()


def test_verify_decodes_no_image_larger_than_the_set_states(prepared):
    _, out = prepared
    facts = json.loads((out / "dataset.json").read_text())
    height, width = facts["largest"]
    facts["largest"] = [height, width - 1]
    (out / "dataset.json").write_text(json.dumps(facts))
    assert any("pixels" in problem for problem in verified(out))


def test_verify_finds_an_altered_byte(prepared):
    _, out = prepared
    assert verified(out) == []
    file = second_shard(out)
    content = open_(out).splits["train"].content(5)
    flip_bit(file, file.read_bytes().index(content) + len(content) // 2)
    problems = verified(out)
    assert problems[0] == f"{file} was altered: its checksum is wrong"
    assert problems[1].startswith(f"{file}[2]: the file was altered: ")
    assert len(problems) == 2


def test_a_truncated_or_missing_shard_is_named_at_the_start(prepared):
    _, out = prepared
    file = second_shard(out)
    whole = file.read_bytes()
    os.truncate(file, len(whole) - 100)
    with pytest.raises(DataError, match=rf"{file} must have {len(whole)} bytes, but has"):
        open_(out)
    file.write_bytes(whole[:100] + bytes(len(whole) - 100))  # the size is right, the rest is not
    with pytest.raises(DataError, match=rf"{file}.*(footer|cannot be opened)"):
        open_(out)
    file.unlink()
    (out / "test-00000-of-00003.arrayrecord").unlink()
    with pytest.raises(DataError, match=r"No such file.* \(and 1 more shards\)"):
        open_(out)


def test_an_altered_record_is_noticed_when_it_is_read(prepared):
    _, out = prepared
    file = second_shard(out)
    image = open_(out).splits["train"].content(5)
    flip_bit(file, file.read_bytes().index(image) + len(image) // 2)
    split = open_(out).splits["train"]
    assert [i for i in range(split.num_examples) if split.contents(np.array([i])) == [b""]] == [5]
    with pytest.raises(DataError, match=r"the file was altered: .*hash mismatch"):
        split.content(5)
    assert split.name(5) == f"{file}[2]"


def case_no_facts(out):
    (out / "dataset.json").unlink()
    return r"No such file.*vit prepare"


def case_facts_of_another_version(out):
    path = out / "dataset.json"
    path.write_text(path.read_text().replace("records 1", "records 2"))
    return r"not have the format 'vit-pipeline records 1' \(format:"


def case_cut_facts(out):
    os.truncate(out / "dataset.json", 300)
    return r"dataset\.json does not have the format"


def case_altered_labels(out):
    flip_bit(out / "train.labels.npy", 130)
    return r"train\.labels\.npy was altered"


def case_forged_labels(out):
    """Labels whose checksum is right, of another number."""
    facts = json.loads((out / "dataset.json").read_text())
    np.save(out / "train.labels.npy", np.zeros([3, 2], np.int64))
    content = (out / "train.labels.npy").read_bytes()
    facts["splits"]["train"]["labels_sha256"] = hashlib.sha256(content).hexdigest()
    (out / "dataset.json").write_text(json.dumps(facts))
    return r"train\.labels\.npy must contain .* int32 labels\. Received: int64"


def case_labels_of_terabytes(out):
    facts = json.loads((out / "dataset.json").read_text())
    header = b"{'descr': '<i4', 'fortran_order': False, 'shape': (1099511627776,)}"
    content = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header
    (out / "train.labels.npy").write_bytes(content)
    facts["splits"]["train"]["labels_sha256"] = hashlib.sha256(content).hexdigest()
    (out / "dataset.json").write_text(json.dumps(facts))
    return r"train\.labels\.npy: its header declares 4,398,046,511,104 bytes"


def case_missing_labels(out):
    (out / "train.labels.npy").unlink()
    return r"cannot read .*train\.labels\.npy"


@pytest.mark.parametrize("case", [v for k, v in sorted(globals().items()) if k.startswith("case_")])
def test_a_damaged_set_is_told_what_is_wrong(prepared, case):
    _, out = prepared
    with pytest.raises(DataError, match=case(out)):
        open_(out)


def test_a_prepared_folder_must_be_named():
    with pytest.raises(SettingsError, match=r"data\.path=FOLDER, written by vit prepare"):
        open_source(DataConfig(source="records"), 0)


def test_what_a_source_is_can_be_seen(tmp_path, folder):
    for name in ("cifar-10-batches-py", "idx", "tf/train", "tf2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").touch()
    (tmp_path / "cifar-100-python.tar.gz").touch()
    (tmp_path / "idx" / "train-images-idx3-ubyte.gz").touch()
    (tmp_path / "tf" / "train" / "a.tfrecord").touch()
    (tmp_path / "tf2" / "train-00000-of-00001").touch()
    (tmp_path / "list.JSONL").touch()
    found = {
        "cifar-10-batches-py": "cifar10", "cifar-100-python.tar.gz": "cifar100",
        "idx": "fashion_mnist", "tf": "tfrecord", "tf2": "tfrecord", "list.JSONL": "list",
    }  # fmt: skip
    for name, kind in found.items():
        path = str(tmp_path / name)
        assert find_source(path) == {"source": kind, "path": path}
    assert find_source(folder.path)["source"] == "image_folder"
    for name in ("cat", "dog"):
        shutil.copytree(f"{folder.path}/train/{name}", tmp_path / "classes" / name)
    assert find_source(str(tmp_path / "classes"))["source"] == "image_folder"
    assert find_source("digits") == {"source": "digits", "path": None}
    assert find_source("here", "tfrecord") == {"source": "tfrecord", "path": "here"}
    with pytest.raises(SettingsError, match="does not exist"):
        find_source(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"cannot tell what .*Set data\.source to image_folder"):
        find_source(str(tmp_path / "empty"))


@pytest.mark.parametrize("kind", ["tfrecord", "records"])
def test_a_set_of_other_records_of_the_same_names_and_sizes_is_another_set(tmp_path, kind):
    root = tmp_path / "source"
    pictures = [np.full((9, 12, 3), 40 * i, np.uint8) for i in range(6)]
    contents = [to_png(pixels) for pixels in pictures]
    assert len({len(content) for content in contents[1:]}) == 1

    def write(order):
        files = tmp_path / "tf" if kind == "records" else root
        write_tfrecord(files / "train.tfrecord", [contents[i] for i in order], [0, 1, 0, 1, 0])
        write_tfrecord(files / "test.tfrecord", contents[:2], [0, 1])
        if kind == "records":
            shutil.rmtree(root, ignore_errors=True)
            prepare_into(root, DataConfig(source="tfrecord", path=str(files)))

    write([1, 2, 3, 4, 5])
    config = DataConfig(source=kind, path=str(root))
    before = os.stat(root / "train.tfrecord") if kind == "tfrecord" else None
    prepare_into(tmp_path / "out", config)
    prepare_into(tmp_path / "out", config)
    write([5, 4, 3, 2, 1])
    if before is not None:
        os.utime(root / "train.tfrecord", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="already contains a prepared data set with other images"):
        prepare_into(tmp_path / "out", config)
