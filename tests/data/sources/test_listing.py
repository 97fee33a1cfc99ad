"""Lists of paths and labels."""

import json

import pytest

from pipeline.config import DataConfig
from pipeline.data.sources.source import open_source
from pipeline.errors import DataError, SettingsError


def open_(path, **settings):
    return open_source(DataConfig(source="list", path=str(path), **settings), 0)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_and_json_lines_say_the_same(tmp_path):
    rows = [
        ("a b.jpg", "dog", "train"), ("ü/ñ.png", "cat", "train"), ("/abs/c.png", "eel", "test"),
        ("d,e.png", "cat", "val"), ("f.png", "dog", "validation"),
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
        assert test.paths == ["/abs/c.png"]
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
        ("a.csv", "file,label\na,b\n", r"a\.csv, line 2: .*Received: file, label"),
        ("a.csv", "path,label\na.png,\n", r"line 2: the path or the label is empty"),
        ("a.csv", "path,label\na.png\n", r"line 2: the path or the label is empty"),
        ("a.csv", "path,label,split\na,b,dev\n", r"line 2: the split must .*Received: 'dev'"),
        ("a.csv", "path,label\n", "lists no image"),
        ("a.csv", "", "lists no image"),
        ("a.csv", "path,label\na.png,x\nb.png,x\n", "one class only, 'x'"),
        ("a.csv", "path,label,split\na,x,test\nb,y,test\n", "no image of the split train"),
        ("a.jsonl", '{"path": "a.png"}\n', r"line 1: there must be a path and a label"),
        ("a.jsonl", '["a.png", 1]\n', r"line 1: .*Received: list"),
        ("a.jsonl", '{"path": "a.png", "label": 1}\n{"path"\n', r"a\.jsonl .*line 2"),
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
    with pytest.raises(DataError, match="no CSV or JSON Lines file in UTF-8"):
        open_(tmp_path / "image.csv")
