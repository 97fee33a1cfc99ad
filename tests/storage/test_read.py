"""Reads of data are tried again while their error may pass."""

import builtins
import errno
import os

import pytest

from pipeline.data.sources.label_names import class_names
from pipeline.data.sources.records import _system_errors
from pipeline.data.sources.tfrecord_shard import TFRecordShard
from pipeline.data.split import Split
from pipeline.errors import DataError
from pipeline.storage import read as storage


@pytest.fixture
def fail(monkeypatch):
    """Lets the next calls of a function fail with some errno; returns the numbers still to come."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    left = []

    def let(target, name, *codes):
        real = getattr(target, name, None) or getattr(builtins, name)
        left.extend(codes)

        def flaky(*arguments, **named):
            if left:
                code = left.pop(0)
                raise OSError(code, os.strerror(code))
            return real(*arguments, **named)

        monkeypatch.setattr(target, name, flaky, raising=False)
        return left

    return let


@pytest.fixture
def file(tmp_path):
    (tmp_path / "cat.png").write_bytes(b"content")
    return str(tmp_path / "cat.png")


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN])
def test_an_error_that_passes_is_tried_again(file, fail, code):
    left = fail(os, "open", code, code)
    assert Split([0], paths=[file]).content(0) == b"content"
    assert not left


def test_an_error_that_stays_is_named_with_its_errno(file, fail):
    fail(os, "open", *[errno.EIO] * 20)
    with pytest.raises(OSError, match="Input/output error") as raised:
        storage.read_file(file)
    assert storage.reason(raised.value) == "Input/output error (EIO, in each of 5 attempts)"


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_an_error_that_says_what_is_there_is_not_tried_again(file, fail, code):
    left = fail(os, "open", code, errno.EIO)
    with pytest.raises(OSError) as raised:  # noqa: PT011 - of which the errno is checked
        storage.read_file(file)
    assert raised.value.errno == code
    assert left == [errno.EIO]
    assert storage.reason(raised.value) == os.strerror(code)


def test_a_short_read_is_tried_again(file, monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    real, short = os.pread, [3, 5]
    monkeypatch.setattr(
        os, "pread", lambda fd, size, at: real(fd, short.pop(0) if short else size, at)
    )
    descriptor = os.open(file, os.O_RDONLY)
    try:
        assert storage.retried(lambda: storage.read_at(descriptor, 7, 0)) == b"content"
        assert storage.read_at(descriptor, 100, 3) == b"tent"  # the file ends there
    finally:
        os.close(descriptor)
    assert not short


def test_a_file_that_its_server_replaced_is_opened_again(tmp_path, fail):
    from tests.data.prepared import write_tfrecord

    write_tfrecord(tmp_path / "train.tfrecord", [b"image"], [0])
    shard = TFRecordShard(str(tmp_path / "train.tfrecord"))
    fail(os, "pread", *[errno.ESTALE] * 4)
    assert b"image" in shard.read(0)


def test_class_names_are_read_again(tmp_path, fail):
    (tmp_path / "labels.txt").write_text("cat\r\ndog\r\n")
    fail(os, "open", errno.EIO)
    assert class_names(tmp_path, 0, 1, None) == (("cat", "dog"), 0)
    fail(os, "open", *[errno.EIO] * 20)
    with pytest.raises(DataError, match=r"labels\.txt: Input/output error \(EIO, in each of 5"):
        class_names(tmp_path, 0, 1, None)


def test_what_the_library_of_records_says_of_the_system_is_an_error_of_the_system():
    with pytest.raises(OSError, match="Stale file handle"), _system_errors():
        raise RuntimeError("UNKNOWN: Stale file handle; pread() failed reading x.arrayrecord")
    with pytest.raises(RuntimeError, match="corrupted"), _system_errors():
        raise RuntimeError("DATA_LOSS: corrupted block")


@pytest.fixture
def special(tmp_path):
    """A path of each kind of file that must not be read, by the word that names it."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    return {"a FIFO": tmp_path / "fifo", "a device": tmp_path / "zero"}


def test_a_fifo_and_a_device_are_refused_at_once(special):
    for kind, path in special.items():
        with pytest.raises(storage.FileRefused) as raised:
            storage.read_file(path)
        assert storage.reason(raised.value) == f"{kind}, not a regular file"


def test_a_folder_and_a_missing_file_raise_what_open_raises(tmp_path):
    with pytest.raises(IsADirectoryError):
        storage.read_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        storage.read_file(tmp_path / "none")


@pytest.mark.parametrize("name", ["../secret", "link", "linked_folder/secret"])
def test_a_path_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "linked_folder").symlink_to(tmp_path)
    with pytest.raises(storage.FileRefused, match="outside"):
        storage.read_file(tmp_path / "data" / name, below=tmp_path / "data")
    assert storage.read_file(tmp_path / "data" / name) == b"secret"


def test_a_file_in_a_folder_reached_through_a_link_is_inside(tmp_path, file):
    (tmp_path / "other").symlink_to(tmp_path)
    assert storage.read_file(file, below=tmp_path / "other") == b"content"
    assert storage.read_file(tmp_path / "other" / "cat.png", below=tmp_path) == b"content"


def test_a_sibling_whose_name_begins_alike_is_outside(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data-2").write_bytes(b"secret")
    with pytest.raises(storage.FileRefused, match="outside"):
        storage.read_file(tmp_path / "data" / ".." / "data-2", below=tmp_path / "data")


def test_a_file_above_its_limit_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(storage.FileRefused, match=r"1,099,511,627,776 bytes are more than 1,024"):
        storage.read_file(tmp_path / "sparse", limit_bytes=1024)


def test_a_folder_that_was_resolved_once_bounds_many_reads(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    (tmp_path / "photos-2").mkdir()
    (tmp_path / "photos-2" / "dog.png").write_bytes(b"dog")
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "photos" / "dog.png").symlink_to("../photos-2/dog.png")
    root = storage.real_folder(tmp_path / "link")
    assert storage.read_file(tmp_path / "link" / "cat.png", below=root) == b"cat"
    assert storage.read_file(tmp_path / "photos" / "cat.png", below=storage.real_folder("/"))
    with pytest.raises(storage.FileRefused, match=r"outside .*/photos: it is .*/photos-2/dog.png"):
        storage.read_file(tmp_path / "photos" / "dog.png", below=root)
