"""Folders are made, moved and removed without following links."""

import os

import pytest

from pipeline.storage.folders import (
    make_folder,
    new_folder,
    remove_file,
    remove_folder,
    rename,
    written_beside,
)
from pipeline.storage.read import FileRefused


@pytest.fixture
def run(tmp_path):
    """A run folder; `precious` beside it holds a file that must survive everything."""
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    yield tmp_path / "run"
    assert (tmp_path / "precious" / "file").read_text() == "precious"
    assert os.listdir(tmp_path / "precious") == ["file"]


def test_a_folder_is_made_once_and_also_with_those_above_it(run):
    make_folder(run / "a" / "b", parents=True)
    make_folder(run / "a" / "b", below=run)
    assert (run / "a" / "b").is_dir()


def test_nothing_is_made_moved_or_removed_through_a_link_that_leads_out(run):
    (run / "link").symlink_to("../precious")
    for act in (
        lambda: make_folder(run / "link" / "more", below=run),
        lambda: make_folder(run / "link", below=run),
        lambda: remove_file(run / "link" / "file", below=run),
        lambda: rename(run / "link" / "file", "other", below=run),
        lambda: new_folder(run / "link" / "new", below=run).__enter__(),
    ):
        with pytest.raises(FileRefused, match=r"outside .*run: a link leads to .*precious"):
            act()
    remove_folder(run / "link" / "file", below=run)


def test_a_link_is_removed_and_not_what_it_leads_to(run):
    (run / "folder").symlink_to("../precious")
    (run / "file").symlink_to("../precious/file")
    remove_folder(run / "folder")
    remove_file(run / "file")
    assert not os.listdir(run)
    remove_folder(run / "folder")
    remove_file(run / "file")  # once more is no error


def test_a_link_inside_a_folder_is_not_followed_when_the_folder_is_removed(run):
    (run / "folder").mkdir()
    (run / "folder" / "link").symlink_to("../../precious")
    remove_folder(run / "folder", below=run)
    assert not os.listdir(run)


def test_links_that_stay_inside_are_followed(run):
    (run / "real").mkdir()
    (run / "link").symlink_to("real")
    make_folder(run / "link" / "more", below=run)
    assert (run / "real" / "more").is_dir()


def test_what_a_library_writes_takes_its_place_at_the_end(run):
    (run / "page").symlink_to("../precious/file")
    with written_beside(run / "page", below=run) as path:
        assert (run / "page").is_symlink()
        path.write_text("new")
    assert not (run / "page").is_symlink()
    assert (run / "page").read_text() == "new"
    assert os.listdir(run) == ["page"]


def test_what_fails_leaves_nothing(run):
    def write():
        with written_beside(run / "page") as path:
            path.write_text("half")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write()
    assert not os.listdir(run)


def test_a_folder_that_was_swapped_for_a_link_is_not_written_through(run):
    with new_folder(run / "export") as new:
        new.path.rename(run / "away")
        new.path.symlink_to("../precious")
        (new.inside / "file").write_text("ours")
    assert (run / "away" / "file").read_text() == "ours"


def test_names_of_new_folders_cannot_be_guessed(run):
    names = set()
    for _ in range(3):
        with new_folder(run / "export") as new:
            names.add(new.path.name)
    assert len(names) == 3
    assert all(len(name) >= len("export..new") + 16 for name in names)


def test_only_files_are_replaced(run):
    os.mkfifo(run / "fifo")
    (run / "link").symlink_to("../precious")
    (run / "device").symlink_to("/dev/null")
    for name in ("fifo", "link", "device"):
        with pytest.raises(FileRefused), written_beside(run / name) as path:
            path.write_text("new")
    assert (run / "device").is_symlink()


def test_a_file_in_the_place_of_a_folder_is_said(run):
    (run / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(run / "file", below=run, parents=True)
