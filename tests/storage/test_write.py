"""Files are written in one piece, and never through a link."""

import os
import time

import pytest

from pipeline.storage.read import FileRefused
from pipeline.storage.write import (
    open_to_append,
    open_to_overwrite,
    remove_unfinished,
    replace_file,
)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("precious")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("content", "written"),
    [("caf\u00e9 \udce9", b"caf\xc3\xa9 \\udce9"), (b"\0", b"\0"), (lambda f: f.write(b"x"), b"x")],
)
def test_text_bytes_and_what_a_function_writes_replace_the_file(run, content, written):
    (run / "file").write_text("before")
    replace_file(run / "file", content)
    assert (run / "file").read_bytes() == written
    assert os.listdir(run) == ["file"]


def test_a_new_file_has_the_permissions_that_open_would_give_it(run):
    before = os.umask(0o027)
    try:
        replace_file(run / "file", "text")
    finally:
        os.umask(before)
    assert (run / "file").stat().st_mode & 0o777 == 0o640


def test_what_was_there_stays_when_writing_fails(run):
    def fail(stream):
        stream.write(b"half")
        raise OSError("no space")

    (run / "file").write_text("before")
    with pytest.raises(OSError, match="no space"):
        replace_file(run / "file", fail)
    assert (run / "file").read_text() == "before"
    assert os.listdir(run) == ["file"]


def test_a_link_under_the_name_is_replaced_and_its_target_stays(run):
    (run / "file").symlink_to("../precious")
    replace_file(run / "file", "new", below=run)
    assert (run.parent / "precious").read_text() == "precious"
    assert not (run / "file").is_symlink()


def test_a_folder_that_leads_elsewhere_is_not_written_in(run):
    (run.parent / "elsewhere").mkdir()
    (run / "tensorboard").symlink_to("../elsewhere")
    with pytest.raises(FileRefused, match="outside"):
        replace_file(run / "tensorboard" / "file", "new", below=run)
    with pytest.raises(FileRefused, match="outside"):
        open_to_append(run / "tensorboard" / "file", below=run)
    assert not os.listdir(run.parent / "elsewhere")


def test_a_run_folder_may_itself_be_reached_through_a_link(run):
    (run.parent / "link").symlink_to("run")
    replace_file(run.parent / "link" / "file", "new", below=run.parent / "link")
    assert (run / "file").read_text() == "new"


def test_a_file_grows_at_its_end_but_not_through_a_link(run):
    for piece in (b"one", b"two"):
        with open_to_append(run / "file") as stream:
            stream.write(piece)
    assert (run / "file").read_bytes() == b"onetwo"
    (run / "link").symlink_to("../precious")
    os.mkfifo(run / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(FileRefused):
            open_to_append(run / name)
    assert (run.parent / "precious").read_text() == "precious"


def test_only_what_a_killed_writer_left_long_ago_is_removed(run):
    old, new = run / ".file.aa.new", run / ".file.bb.new"
    for file in (old, new, run / "file"):
        file.write_text("")
    os.utime(old, (time.time() - 7200,) * 2)
    os.utime(run / "file", (time.time() - 7200,) * 2)
    remove_unfinished(run)
    assert sorted(os.listdir(run)) == [".file.bb.new", "file"]


def test_a_file_with_other_names_is_not_changed_where_others_can_write(run):
    os.link(run.parent / "precious", run / "skipped.txt")
    run.chmod(0o777)
    for opened in (open_to_append, open_to_overwrite):
        with pytest.raises(FileRefused, match="hard links"):
            opened(run / "skipped.txt")
    run.chmod(0o755)
    with open_to_append(run / "skipped.txt") as stream:  # the user's own: cp -al
        stream.write(b" and more")
    assert (run.parent / "precious").read_text() == "precious and more"


def test_a_file_is_overwritten_but_not_made_and_not_through_a_link(run):
    with pytest.raises(FileNotFoundError):
        open_to_overwrite(run / "file")
    (run / "file").write_text("before")
    with open_to_overwrite(run / "file") as stream:
        stream.write(b"after")
    assert (run / "file").read_text() == "aftere"
    (run / "link").symlink_to("../precious")
    with pytest.raises(FileRefused, match="link"):
        open_to_overwrite(run / "link")


def test_a_device_is_not_replaced(run):
    (run / "null").symlink_to("/dev/null")
    with pytest.raises(FileRefused, match="not a regular file"):
        replace_file(run / "null", "text")
    assert (run / "null").is_symlink()


def test_folders_that_killed_writers_left_are_removed_after_an_hour(run):
    (run / ".export.0123.new").mkdir()
    (run / ".export.0123.new" / "half").write_text("half")
    remove_unfinished(run)
    assert os.listdir(run)
    os.utime(run / ".export.0123.new", (0, 0))
    remove_unfinished(run)
    assert not os.listdir(run)
