"""Names of files as text that can be printed, encoded and kept on one line."""

import os

import numpy as np
import pytest

from pipeline.data.split import Split
from pipeline.printable import printable, printable_lines


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9", r"caf\udce9"), ("café".encode(), "café"), ("日本 1".encode(), "日本 1"),
        (b"a\nb\tc", r"a\nb\tc"), (b"\x7f", r"\x7f"), ("\x85".encode(), r"\x85"),
        ("\u2028".encode(), r"\u2028"), (rb"a\b", r"a\b"),
    ],
)  # fmt: skip
def test_a_name_is_text_on_one_line(name, shown):
    text = printable(os.fsdecode(name))
    assert text == shown
    assert len(text.encode().decode().splitlines()) == 1
    assert printable(text) == text


def test_text_keeps_its_lines_and_tabs():
    assert printable_lines("a\n\tb\x1b[2J\r\n") == "a\n\tb\\x1b[2J\\r\n"


def test_a_split_reads_a_file_by_its_name_and_shows_it_escaped(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    with open(path, "wb") as file:
        file.write(b"content")
    split = Split(np.zeros(1, np.int32), paths=[path])
    assert split.name(0) == rf"{tmp_path}/\udcff.png"
    assert split.content(0) == b"content"
