"""The files that an argument names."""

import glob
import os

import pytest

from pipeline.export.file_predictions import find_images


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("a/1.jpg", "a/2.png", "a/.x.jpg", "a/.h/3.jpg", "a/c/4.jpg", "a/[5].jpg"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "a"


def found(word):
    return [answer.path for answer in find_images([word]) if answer.problem is None]


PATTERNS = (
    "a/*.jpg", "a/**/*.jpg", "**/*.jpg", "a/**", "a/**.jpg", "a/.h/*.jpg", "a/.*", "a/[12].*",
    "a/*/4.jpg", "a/[[]5].jpg", "none/*.jpg",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_the_files_that_glob_finds(photos, pattern):
    expected = {os.path.normpath(f) for f in glob.glob(pattern, recursive=True)}
    assert found(pattern) == sorted(filter(os.path.isfile, expected))


@pytest.mark.parametrize("word", ["a/**/*.jpg", "a"])
@pytest.mark.timeout(20)
def test_the_search_ends_with_two_links_to_their_own_folder(photos, word):
    before = found(word)
    for name in ("one", "two"):
        (photos / name).symlink_to(".")
    # 2^40 folders, for one who follows the links.
    assert found(word) == before
