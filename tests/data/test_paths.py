"""Paths are the strings that went in."""

import os

import numpy as np
import pytest

from pipeline.data.paths import Paths, PathsBuilder

FILES = {
    "/set/cat": ["1.jpg", "ü ñ.png", os.fsdecode(b"\xff.jpg")],
    "/set/empty": [],
    "set/dog/sub": ["a\nb.png", "x" * 251 + ".jpg", "1.jpg"],
}
WHOLE = [f"{folder}/{name}" for folder, names in FILES.items() for name in names]


@pytest.fixture
def paths() -> Paths:
    builder = PathsBuilder()
    for folder, names in FILES.items():
        builder.add(folder, names)
    assert len(builder) == len(WHOLE)
    return builder.build()


def test_they_are_a_sequence_of_strings(paths):
    assert list(paths) == WHOLE
    assert [paths[i] for i in range(len(paths))] == WHOLE
    assert (paths[-1], list(paths[1:3])) == (WHOLE[-1], WHOLE[1:3])
    assert WHOLE[2] in paths
    with pytest.raises(IndexError):
        paths[len(WHOLE)]


def test_some_of_them_can_be_taken_in_any_order(paths):
    chosen = paths.take(np.array([4, 0, 4]))
    assert list(chosen) == [WHOLE[4], WHOLE[0], WHOLE[4]]
    assert list(chosen.take(np.array([1]))) == [WHOLE[0]]
    assert list(PathsBuilder().build()) == []


def test_the_folders_can_have_other_names(paths):
    assert next(paths.encoded(["cät", "empty", "dog/sub"])) == "cät/1.jpg".encode()


def test_many_are_iterated_in_order():
    builder = PathsBuilder()
    names = [f"{number}.jpg" for number in range(10_000)]
    builder.add("/many", names)
    assert list(builder.build()) == [f"/many/{name}" for name in names]
