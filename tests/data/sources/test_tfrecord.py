"""TFRecord files as others write them, read by index."""

import os
import pickle
from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import DataConfig
from pipeline.data.sources import tfrecord
from pipeline.data.sources.source import open_source
from pipeline.data.sources.tfrecord_shard import TFRecordShard, masked_crc, scan
from pipeline.errors import DataError, SettingsError
from tests.data.prepared import write_tfrecord

LABEL, IMAGE = "image/class/label", "image/encoded"
RNG = np.random.default_rng(0)
IMAGES = [RNG.bytes(int(n)) for n in RNG.integers(1, 5000, 40)]
LABELS = [1 + i % 4 for i in range(40)]


def write_set(root, first_label=0):
    """24 training examples in three shards, 16 for validation in two."""
    labels = [label - 1 + first_label for label in LABELS]
    for split, shards, start in (("train", 3, 0), ("validation", 2, 24)):
        for i in range(shards):
            part = slice(start + 8 * i, start + 8 * i + 8)
            name = f"{split}-{i:05d}-of-{shards:05d}"
            write_tfrecord(root / name, IMAGES[part], labels[part])


def open_(root, **settings):
    return open_source(DataConfig(source="tfrecord", path=str(root), **settings), 0)


@pytest.mark.parametrize("first_label", [0, 1])
def test_records_are_read_in_any_order_with_labels_from_zero(tmp_path, first_label):
    write_set(tmp_path, first_label)
    source = open_(tmp_path, first_label=first_label)
    train, validation = source.splits["train"], source.splits["validation"]
    assert source.classes == ("0", "1", "2", "3")
    assert train.labels.tolist() == [i % 4 for i in range(24)]
    assert validation.labels.tolist() == [i % 4 for i in range(16)]
    order = RNG.permutation(24)
    assert train.contents(order) == [IMAGES[i] for i in order]
    assert [validation.content(i) for i in (15, 0)] == [IMAGES[39], IMAGES[24]]
    assert bool(source.notes) == bool(first_label)


def test_the_offsets_are_those_tensorflow_reads_in_order(tmp_path):
    path = tmp_path / "train-00000-of-00001"
    write_tfrecord(path, IMAGES, LABELS)
    starts, labels, _ = scan(path, LABEL, IMAGE)
    shard = TFRecordShard(str(path))
    theirs = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    assert [shard.read(int(start)) for start in starts] == theirs
    assert labels.tolist() == LABELS


def test_the_index_is_kept_and_made_again_when_a_file_changes(tmp_path):
    write_set(tmp_path)
    open_(tmp_path)
    kept = sorted(tmp_path.glob(".vit-index-*"))
    assert len(kept) == 2
    before = [path.stat().st_mtime_ns for path in kept]
    open_(tmp_path)
    assert [path.stat().st_mtime_ns for path in kept] == before
    changed = tmp_path / "train-00001-of-00003"
    write_tfrecord(changed, IMAGES[:3], LABELS[:3])
    assert open_(tmp_path).splits["train"].num_examples == 19


@pytest.mark.parametrize("keeps_ctime", [True, False])
def test_a_file_written_again_with_its_old_size_and_time_is_noticed(
    tmp_path, monkeypatch, keeps_ctime
):
    write_set(tmp_path)
    real = tfrecord.stat
    if not keeps_ctime:
        kept = namedtuple("kept", "st_size st_mtime_ns st_ctime_ns")
        monkeypatch.setattr(
            tfrecord, "stat", lambda path: kept(real(path).st_size, real(path).st_mtime_ns, 0)
        )
    open_(tmp_path)
    path = tmp_path / "train-00001-of-00003"
    before = os.stat(path)
    write_tfrecord(path, IMAGES[8:16], [label % 4 for label in LABELS[8:16]])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(path).st_size == before.st_size
    labels = open_(tmp_path).splits["train"].labels[8:16]
    assert labels.tolist() == [label % 4 for label in LABELS[8:16]]


def test_the_index_can_lie_elsewhere(tmp_path):
    write_set(tmp_path / "data")
    open_(tmp_path / "data", index_path=str(tmp_path / "index"))
    assert len(list((tmp_path / "index").iterdir())) == 2
    assert not list((tmp_path / "data").glob(".*"))


def test_without_a_place_for_the_index_it_trains_all_the_same(tmp_path):
    write_set(tmp_path / "data")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        source = open_(tmp_path / "data", index_path=str(place))
        assert source.splits["train"].num_examples == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file"]


@pytest.mark.parametrize("kept_bytes", [0, 100, -50])
def test_a_damaged_index_is_made_again(tmp_path, kept_bytes):
    write_set(tmp_path)
    open_(tmp_path)
    kept = next(tmp_path.glob(".vit-index-train-*"))
    whole = kept.read_bytes()
    kept.write_bytes(whole[:kept_bytes])
    assert open_(tmp_path).splits["train"].num_examples == 24
    assert kept.read_bytes() == whole
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_names_of_other_writers_and_their_features(tmp_path):
    keys = {"image_key": "image", "label_key": "label"}
    labels = [label - 1 for label in LABELS]
    write_tfrecord(tmp_path / "train" / "a.tfrecord", IMAGES[:20], labels[:20], **keys)
    write_tfrecord(tmp_path / "train" / "b.tfrecords", IMAGES[20:], labels[20:], **keys)
    write_tfrecord(tmp_path / "birds-test.tfrecord-00000-of-00001", IMAGES[:2], labels[:2], **keys)
    (tmp_path / "label.labels.txt").write_text("wren\nrobin\nowl\nauk\n")
    (tmp_path / "train" / "notes.txt").write_text("no shard")
    source = open_(tmp_path, tfrecord_image_key="image", tfrecord_label_key="label")
    assert source.classes == ("wren", "robin", "owl", "auk")
    sizes = {name: split.num_examples for name, split in source.splits.items()}
    assert sizes["train"] + sizes["validation"] == 40
    assert sizes["validation"] >= 1
    assert sizes["test"] == 2


def test_a_file_with_a_name_for_label_0_counts_from_0(tmp_path):
    write_set(tmp_path, first_label=1)
    (tmp_path / "labels.txt").write_bytes(
        b"background\r\n wren \r\nrobin\r\nowl\r\ncaf\xe9\r\n\r\n"
    )
    source = open_(tmp_path)
    assert source.classes == ("background", "wren", "robin", "owl", "caf\\udce9")
    assert source.splits["train"].labels.tolist() == [1 + i % 4 for i in range(24)]
    assert source.notes == ()


NAMES = "wren\nrobin\nowl\nauk\n"


@pytest.mark.parametrize(
    ("text", "names_of_labels"),
    [
        ("0:background\n1:wren\n2:robin\n3:owl\n4:auk\n", "background wren robin owl auk"),
        ("1:wren\n2:robin\n3:owl\n4:auk\n5:kite\n", "- wren robin owl auk"),
        (f"background\n{NAMES}", "background wren robin owl auk"),
        (NAMES, "- wren robin owl auk"),  # as many lines as labels: no other reading fits
    ],
)
def test_labels_from_1_keep_the_names_of_their_lines(tmp_path, text, names_of_labels):
    write_set(tmp_path, first_label=1)
    (tmp_path / "labels.txt").write_text(text)
    source = open_(tmp_path)
    found = [source.classes[label] for label in source.splits["train"].labels]
    assert found == [names_of_labels.split()[1 + i % 4] for i in range(24)]
    assert bool(source.notes) == (source.first_label == 1)


def test_labels_that_fit_two_lines_each_are_refused_until_it_is_said(tmp_path):
    write_set(tmp_path, first_label=1)
    (tmp_path / "labels.txt").write_text(f"{NAMES}kite\n")
    with pytest.raises(DataError, match=r"label 1 is 'robin'.*If label 1 is 'wren'"):
        open_(tmp_path)
    for first, name in ((0, "robin"), (1, "wren")):
        source = open_(tmp_path, first_label=first)
        assert source.classes[source.splits["train"].labels[0]] == name


def test_a_set_without_class_0_keeps_the_labels_of_the_run(tmp_path):
    write_set(tmp_path, first_label=1)
    source = open_(tmp_path, first_label=0)
    assert source.splits["train"].labels.tolist() == [1 + i % 4 for i in range(24)]
    write_set(tmp_path, first_label=0)
    with pytest.raises(DataError, match="the lowest label is 0, but class 0 has label 1"):
        open_(tmp_path, first_label=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wren\nowl\n wren\nauk\n", r"labels\.txt, line 3: 'wren' is also on line 1"),
        ("wren\n\nowl\nauk\n", r"labels\.txt, line 2: the label is empty"),
        ("wren\nowl\n", r"labels\.txt names 2 classes, but there are 4 labels"),
    ],
)
def test_a_wrong_file_of_class_names_is_told_where(tmp_path, text, message):
    write_set(tmp_path)
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_(tmp_path)


def test_records_go_to_another_process(tmp_path):
    write_set(tmp_path)
    train = open_(tmp_path).splits["train"]
    train.content(0)
    copy = pickle.loads(pickle.dumps(train.take(np.array([5, 2]), "two")))  # noqa: S301
    assert [copy.content(0), copy.content(1)] == [IMAGES[5], IMAGES[2]]


def case_truncated(root):
    path = root / "train-00001-of-00003"
    os.truncate(path, path.stat().st_size - 7)
    return rf"{path} is truncated: record 7 at byte \d+ needs 7 more bytes"


def case_truncated_in_a_header(root):
    path = root / "train-00001-of-00003"
    starts, *_ = scan(path, LABEL, IMAGE)
    os.truncate(path, int(starts[3]) + 5)
    return rf"{path} is damaged or truncated at byte {starts[3]} of {starts[3] + 5}"


def case_altered_length(root):
    path = root / "train-00002-of-00003"
    content = bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)
    return rf"{path} is damaged or truncated at byte 0"


def case_compressed(root):
    path = root / "train-00000-of-00003"
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    with tf.io.TFRecordWriter(str(path), options) as writer:
        writer.write(b"x" * 100)
    return rf"{path} is compressed"


def case_missing_shard(root):
    (root / "train-00001-of-00003").unlink()
    return r"1 of 3 shards are missing, the first is .*train-00001-of-00003"


def case_other_features(root):
    write_tfrecord(root / "train-00000-of-00003", IMAGES[:2], LABELS[:2], label_key="label")
    return r"record 0: no feature 'image/class/label': it has .*label.*data\.tfrecord_label_key"


def case_images_under_another_name(root):
    write_tfrecord(root / "train-00000-of-00003", IMAGES[:2], LABELS[:2], image_key="picture")
    return r"record 0: no feature 'image/encoded': it has .*picture.*data\.tfrecord_image_key"


def case_no_example(root):
    with tf.io.TFRecordWriter(str(root / "train-00000-of-00003")) as writer:
        writer.write(b"a line of text, no tf.Example")
    return r"train-00000-of-00003, record 0: .*tf\.Example"


def case_labels_that_are_negative(root):
    for path in root.iterdir():
        write_tfrecord(path, IMAGES[:2], [-1, 6])
    return r"labels must not be negative. Received: -1"


def case_labels_from_one_without_names(root):
    write_set(root, first_label=1)
    return (
        r"labels are 1 to 4, and no file names the classes. If label 1 is class 1 of 5.*"
        r"data\.first_label=0\. If label 1 is class 0 of 4, set data\.first_label=1"
    )


def case_empty_shards(root):
    for path in root.glob("train*"):
        path.write_bytes(b"")
    return r"the train shards contain no records"


def case_no_split_in_the_name(root):
    write_tfrecord(root / "more.tfrecord", IMAGES[:2], LABELS[:2])
    return r"more\.tfrecord: its name or folder must contain one of train"


def case_only_validation(root):
    for path in root.glob("train*"):
        path.unlink()
    return r"has no training shards"


@pytest.mark.parametrize("case", [v for k, v in sorted(globals().items()) if k.startswith("case_")])
def test_wrong_files_are_named_at_the_start(tmp_path, case):
    write_set(tmp_path)
    with pytest.raises(DataError, match=case(tmp_path)):
        open_(tmp_path)


def test_an_altered_record_is_noticed_when_it_is_read(tmp_path):
    write_set(tmp_path)
    train = open_(tmp_path).splits["train"]
    path = tmp_path / "train-00000-of-00003"
    starts, *_ = scan(path, LABEL, IMAGE)
    content = bytearray(path.read_bytes())
    content[int(starts[3]) + 60] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match="the file was altered: the record's checksum is wrong"):
        train.content(3)
    assert train.contents(np.arange(6)) == [*IMAGES[:3], b"", *IMAGES[4:6]]
    assert train.name(3) == f"{path}[{starts[3]}]"


def test_a_folder_must_be_named(tmp_path):
    with pytest.raises(SettingsError, match=r"data\.path=FOLDER"):
        open_source(DataConfig(source="tfrecord"), 0)
    with pytest.raises(DataError, match="is not a folder"):
        open_(tmp_path / "nothing")


def framed(length, content=b""):
    """A record's header with a right checksum of its length, whatever follows."""
    header = length.to_bytes(8, "little")
    return header + masked_crc(header).to_bytes(4, "little") + content


@pytest.mark.parametrize("length", [2**60, 2**63, 2**64 - 1, 100])
def test_a_record_that_says_to_be_longer_than_its_file_is_one_error(tmp_path, length):
    path = tmp_path / "train-00000-of-00001"
    path.write_bytes(framed(length, b"short"))
    shard = TFRecordShard(str(path))
    with pytest.raises(DataError, match="length is wrong"):
        shard.read(0)
    assert shard.checksum(0) == b""
    with pytest.raises(DataError, match="truncated"):
        open_(tmp_path)


def _forged(index, **changes):
    return {name: changes.get(name, array) for name, array in index.items()}


FORGED_INDEXES = {
    "a shard that is not there": lambda i: _forged(i, shard=np.full_like(i["shard"], 7)),
    "a negative shard": lambda i: _forged(i, shard=np.full_like(i["shard"], -1)),
    "places behind the end": lambda i: _forged(i, start=i["start"] + 2**60),
    "negative places": lambda i: _forged(i, start=i["start"] - 2**60),
    "places as numbers with a point": lambda i: _forged(i, start=i["start"] * np.nan),
    "labels of fewer records": lambda i: _forged(i, labels=i["labels"][:-1]),
    "labels as text": lambda i: _forged(i, labels=i["labels"].astype("U")),
    "no records": lambda i: {name: array[:0] for name, array in i.items()},
    "a missing array": lambda i: {name: i[name] for name in ("shard", "start", "labels")},
    "2^22 records": lambda i: {name: np.zeros(2**22, a.dtype) for name, a in i.items()},
}


@pytest.mark.parametrize("name", FORGED_INDEXES)
def test_a_forged_index_is_made_again(tmp_path, name):
    write_set(tmp_path)
    expected = open_(tmp_path).splits["train"]
    (kept,) = tmp_path.glob(".vit-index-train-*")
    with np.load(kept) as arrays:
        forged = FORGED_INDEXES[name](dict(arrays))
    np.savez_compressed(kept, **forged)
    found = open_(tmp_path).splits["train"]
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.contents(np.arange(24)) == expected.contents(np.arange(24))


@pytest.mark.timeout(60)
def test_a_fifo_in_the_place_of_a_shard_is_refused_and_not_waited_for(tmp_path):
    shard = tmp_path / "train-00000-of-00001"
    os.mkfifo(shard)
    for read in (lambda: TFRecordShard(str(shard)), lambda: scan(shard, "label", "image")):
        with pytest.raises(DataError, match="a FIFO, not a regular file"):
            read()
