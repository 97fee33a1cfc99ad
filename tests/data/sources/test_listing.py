"""Lists of paths and labels."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pipeline.config import DataConfig
from pipeline.data.sources.classes import class_order
from pipeline.data.sources.source import open_source
from pipeline.errors import DataError, SettingsError


def open_(path, **settings):
    return open_source(DataConfig(source="list", path=str(path), **settings), 0)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_and_json_lines_say_the_same(tmp_path):
    rows = [
        ("a b.jpg", "dog", "train"), ("ü/ñ.png", "cat", "train"),
        (f"{tmp_path}/c.png", "eel", "test"), ("d,e.png", "cat", "val"),
        ("f.png", "dog", "validation"),
    ]  # fmt: skip
    lines = [json.dumps(dict(zip(("path", "label", "split"), row, strict=True))) for row in rows]
    one = open_(write(tmp_path / "list.jsonl", "\n".join(lines) + "\n\n"))
    quoted = [",".join(f'"{value}"' for value in reversed(row)) for row in rows]
    other = open_(write(tmp_path / "list.csv", "split,label,path\n" + "\n".join(quoted)))
    for source in (one, other):
        assert source.classes == ("cat", "dog", "eel")
        train, validation, test = (source.splits[n] for n in ("train", "validation", "test"))
        assert train.paths == [f"{tmp_path}/a b.jpg", f"{tmp_path}/ü/ñ.png"]
        assert train.labels.tolist() == [1, 0]
        assert validation.paths == [f"{tmp_path}/d,e.png", f"{tmp_path}/f.png"]
        assert test.paths == [f"{tmp_path}/c.png"]
        assert test.labels.tolist() == [2]


def test_without_splits_some_are_held_out_by_name_wherever_the_list_lies(tmp_path):
    text = "path,label\n" + "\n".join(f"{i}.png,{i % 2}" for i in range(100))
    held = []
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        split = open_(write(tmp_path / folder / "list.csv", text)).splits["validation"]
        held.append({path.rpartition("/")[2] for path in split.paths})
    assert held[0] == held[1]
    assert 2 <= len(held[0]) <= 25


def test_classes_that_are_numbers_stand_in_their_order(tmp_path):
    text = "path,label\n" + "\n".join(f"{i}.png,{i % 11}" for i in range(110))
    source = open_(write(tmp_path / "list.csv", "\ufeff" + text))  # as spreadsheets save it
    assert source.classes == tuple(str(i) for i in range(11))
    train = source.splits["train"]
    numbers = [int(path.rpartition("/")[2].removesuffix(".png")) for path in train.paths]
    assert train.labels.tolist() == [number % 11 for number in numbers]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,label\na,b\n", r"a\.csv, line 1: .*Received: file, label"),
        ("a.csv", "path;label\na.png;b\n", r"separated by commas\. Received: path;label"),
        ("a.csv", "path,label,label\na,b,c\n", r"line 1: the header names .* 'label' twice"),
        ("a.csv", "path,label\na.png,\n", r"a\.csv, line 2: the label is empty"),
        ("a.csv", 'path,label\na.png," "\n', r"line 2: the label is empty"),
        ("a.csv", "path,label\n,cat\n", r"line 2: the path must .*Received: ''"),
        ("a.csv", "path,label\na\0.png,cat\n", r"line 2: the path must .*Received: 'a\\x00.png'"),
        ("a.csv", "path,label\na.png\n", r"line 2: the line has 1 fields, but the header has 2"),
        ("a.csv", "path,label\na.png,b\na,1.png,b\n", r"line 3: the line has 3 fields, .*quoted"),
        ("a.csv", 'path,label\na.png,"b" c\n', r"a\.csv is not a valid CSV .*: line 2"),
        ("a.csv", "path,label,split\na,b,dev\n", r"line 2: the split must .*Received: 'dev'"),
        ("a.csv", "path,label\n", "lists no image"),
        ("a.csv", "", "lists no image"),
        ("a.csv", "path,label\na.png,x\nb.png,x\n", "only one class, 'x'"),
        ("a.csv", "path,label,split\na,x,test\nb,y,test\n", "no images of the split train"),
        ("a.jsonl", '{"path": "a.png"}\n', r"line 1: path and label are required"),
        ("a.jsonl", '["a.png", 1]\n', r"line 1: .*Received: list"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"path"\n', r"a\.jsonl .*line 2"),
        ("a.jsonl", '{"path": 3, "label": 1}\n', r"line 1: the path must .*Received: 3"),
        (
            "a.jsonl",
            '{"path": "a", "label": "b", "label": "c"}\n',
            r"line 1: .*'label' appears twice",
        ),
        ("a.json", '[{"path": "a"}]', r"a\.json, entry 1: path and label .*Received: path"),
        ("a.json", '{"images": [], "labels": []}', r"a\.json, line 1: .*Received: images, labels"),
        ("a.json", "[" * 100_000, r"a\.json is not a valid CSV or JSON file"),
    ],
)
def test_a_wrong_list_is_told_where(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        open_(write(tmp_path / name, text))


def test_a_list_must_be_there_and_be_text(tmp_path):
    with pytest.raises(SettingsError, match=r"data\.path=FILE"):
        open_source(DataConfig(source="list"), 0)
    with pytest.raises(DataError, match="No such file"):
        open_(tmp_path / "missing.csv")
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(DataError, match="valid CSV or JSON file in UTF-8"):
        open_(tmp_path / "image.csv")


def write_lines(path, rows):
    return write(path, "\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        (1.0, "1.0"), (float("nan"), "nan"), (float("inf"), "inf"), (None, "None"), (True, "True"),
        (["cat"], r"\['cat'\]"), ({"name": "cat"}, r"{'name': 'cat'}"),
    ],
)  # fmt: skip
def test_a_label_is_text_or_an_integer(tmp_path, label, shown):
    rows = [{"path": "a.png", "label": "cat"}, {"path": "b.png", "label": label}]
    message = rf"a\.jsonl, line 2: the label must be text or an integer\. Received: {shown}"
    with pytest.raises(DataError, match=message):
        open_(write_lines(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize("split", [["train"], {"train": 1}, 0, 1, False, True])
def test_a_split_is_text(tmp_path, split):
    rows = [{"path": "a.png", "label": "cat", "split": split}]
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: the split must be train"):
        open_(write_lines(tmp_path / "a.jsonl", rows))


def test_an_integer_and_its_text_are_one_class(tmp_path):
    rows = [{"path": f"{i}.png", "label": (7, "7", 12, " 12\t")[i % 4]} for i in range(40)]
    source = open_(write_lines(tmp_path / "a.jsonl", rows))
    assert source.classes == ("7", "12")
    assert source.notes == ()
    for split in source.splits.values():
        numbers = [int(path.rpartition("/")[2].removesuffix(".png")) for path in split.paths]
        assert split.labels.tolist() == [i % 4 // 2 for i in numbers]


def test_blanks_around_values_and_line_ends_of_windows_do_not_count(tmp_path):
    lines = ["\ufeffpath , label, split ", 'a.png, "red, dark", val', 'b.png,"blue ",', ",,"]
    lines += ['"c.png",blue,train ', 'd.png," red, dark",train', ""]
    source = open_(write(tmp_path / "a.csv", "\r\n".join(lines)))
    assert source.classes == ("blue", "red, dark")
    names = {
        name: [path.rpartition("/")[2] for path in s.paths] for name, s in source.splits.items()
    }
    assert names == {"train": ["b.png", "c.png", "d.png"], "validation": ["a.png"]}
    assert source.splits["train"].labels.tolist() == [0, 0, 1]


def test_an_array_and_lines_say_the_same(tmp_path):
    rows = [{"path": f"{i}.png", "label": "ab"[i % 2], "split": None} for i in range(20)]
    lines = open_(write_lines(tmp_path / "a.jsonl", rows))
    for text in (json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        array = open_(write(tmp_path / "a.json", text))
        assert array.classes == lines.classes == ("a", "b")
        for name, split in lines.splits.items():
            assert array.splits[name].paths == split.paths
            assert array.splits[name].labels.tolist() == split.labels.tolist()


@pytest.mark.parametrize(
    "alike",
    [("Cat", "cat"), ("1", "01"), ("1", "1.0"), ("caf\u00e9", "cafe\u0301"), ("a b", "a  b")],
)
def test_classes_that_look_alike_are_named(tmp_path, alike):
    rows = [{"path": f"{i}.png", "label": (*alike, "dog")[i % 3]} for i in range(30)]
    (note,) = open_(write_lines(tmp_path / "a.jsonl", rows)).notes
    for name in alike:
        assert repr(name) in note
    assert "dog" not in note


def test_the_text_nan_is_a_class_that_is_named(tmp_path):
    text = "path,label\n" + "\n".join(f"{i}.png,{('cat', 'nan')[i % 2]}" for i in range(20))
    (note,) = open_(write(tmp_path / "a.csv", text)).notes
    assert "'nan' is a class" in note


def test_an_image_under_two_labels_or_in_two_splits_is_named(tmp_path):
    rows = ["a.png,cat,train", "b.png,dog,train", "c.png,cat,val", "./a.png,dog,train"]
    rows += ["x/../c.png,cat,train", "b.png,dog,train"]
    label, split = open_(
        write(tmp_path / "a.csv", "\n".join(["path,label,split", *rows]))
    ).notes  # fmt: skip
    assert "1 lines list an image again with another label" in label
    assert "./a.png as 'cat' and as 'dog'" in label
    assert "1 lines list an image again with another split" in split
    assert "x/../c.png in validation and in train" in split


@pytest.mark.parametrize("names", [["1", "01", "001", "2", "10"], ["b", "B", "1", "01", "\u00e9"]])
def test_the_order_of_classes_is_that_of_the_set_of_names(names):
    orders = {class_order(order) for order in itertools.permutations(names)}
    assert len(orders) == 1
    expected = ("001", "01", "1", "2", "10") if "10" in names else ("01", "1", "B", "b", "\u00e9")
    assert orders == {expected}


@pytest.mark.processes
def test_the_order_of_classes_is_the_same_in_every_process(tmp_path):
    text = "path,label\n" + "\n".join(f"{i}.png,{('1', '01', '2')[i % 3]}" for i in range(30))
    write(tmp_path / "a.csv", text)
    code = (
        "import sys; from pipeline.config import DataConfig;"
        "from pipeline.data.sources.listing import open_list;"
        "print(open_list(DataConfig(source='list', path=sys.argv[1])).classes)"
    )
    for seed in "012":
        found = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.csv")],
            env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert found.strip() == "('01', '1', '2')"


def test_negative_and_very_long_numbers_have_an_order():
    assert class_order(["-1", "2", "-10", "0"]) == ("-10", "-1", "0", "2")
    long = "1" * 5000
    assert class_order(["2", long, "10"]) == ("10", long, "2")


def many(first):
    return "\n".join(["path,label", f"{first},cat", *(f"{i}.png,{'ab'[i % 2]}" for i in range(40))])


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "x/../../secret.png"])
def test_a_path_out_of_the_folder_is_refused_unless_it_is_allowed(tmp_path, path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    file = write(tmp_path / "photos" / "list.csv", many(path))
    message = rf"lists {path}, which is outside .*/photos\. .*data\.links_out=true"
    with pytest.raises(DataError, match=message):
        open_(file)
    splits = open_(file, links_out=True).splits.values()
    found = [name for split in splits for name in split.paths if not name.endswith("0.png")]
    assert f"{tmp_path}/photos/{path}".replace(f"{tmp_path}/photos//", "/") in found


def test_absolute_paths_into_the_folder_are_allowed_under_each_of_its_names(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "other").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    for place in ("photos", "link", "other"):
        write(tmp_path / "photos" / "list.csv", many(tmp_path / place / "a.png"))
        for file in (tmp_path / "photos" / "list.csv", tmp_path / "link" / "list.csv"):
            assert open_(file).classes == ("a", "b", "cat")
        assert open_("link/list.csv").classes == ("a", "b", "cat")
    write(tmp_path / "photos" / "list.csv", many("../photos/a.png"))
    assert open_("photos/list.csv").classes == ("a", "b", "cat")


def test_a_link_out_of_the_folder_is_not_read_unless_it_is_allowed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "photos" / "0.png").symlink_to("../secret.png")
    (tmp_path / "photos" / "1.png").write_bytes(b"image")
    (tmp_path / "photos" / "2.png").symlink_to("1.png")
    file = write(tmp_path / "photos" / "list.csv", "path,label\n0.png,a\n1.png,b\n2.png,a\n")
    contents = {}
    for split in open_(file).splits.values():
        for index, path in enumerate(split.paths):
            contents[path[-5:]] = split.contents(np.array([index]))[0]
            if path.endswith("0.png"):
                with pytest.raises(OSError, match=r"outside .*/photos.*secret\.png; data\.links_"):
                    split.content(index)
    assert contents == {"0.png": b"", "1.png": b"image", "2.png": b"image"}
    for split in open_(file, links_out=True).splits.values():
        assert b"" not in split.contents(np.arange(split.num_examples))


@pytest.mark.parametrize("kind", ["/dev/zero", "a FIFO", "a sparse file"])
def test_a_list_is_a_regular_file_of_limited_size(tmp_path, kind):
    path = tmp_path / "list.csv"
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a sparse file":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.symlink_to(kind)
    reason = "bytes are more than" if kind == "a sparse file" else "not a regular file"
    with pytest.raises(DataError, match=rf"cannot read the list .*list\.csv: .*{reason}"):
        open_(path)
