"""Reads of data are tried again while their error may pass."""

import builtins
import errno
import os

import pytest

from pipeline.data import storage
from pipeline.data.sources.label_names import class_names
from pipeline.data.sources.records import _system_errors
from pipeline.data.sources.tfrecord import TFRecordShard
from pipeline.data.split import Split
from pipeline.errors import DataError


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
    left = fail(storage, "open", code, code)
    assert Split([0], paths=[file]).content(0) == b"content"
    assert not left


def test_an_error_that_stays_is_named_with_its_errno(file, fail):
    fail(storage, "open", *[errno.EIO] * 20)
    with pytest.raises(OSError, match="Input/output error") as raised:
        storage.read_file(file)
    assert storage.reason(raised.value) == "Input/output error (EIO, in each of 5 attempts)"


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_an_error_that_says_what_is_there_is_not_tried_again(file, fail, code):
    left = fail(storage, "open", code, errno.EIO)
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
    fail(storage, "open", errno.EIO)
    assert class_names(tmp_path, 0, 1, None) == (("cat", "dog"), 0)
    fail(storage, "open", *[errno.EIO] * 20)
    with pytest.raises(DataError, match=r"labels\.txt: Input/output error \(EIO, in each of 5"):
        class_names(tmp_path, 0, 1, None)


def test_what_the_library_of_records_says_of_the_system_is_an_error_of_the_system():
    with pytest.raises(OSError, match="Stale file handle"), _system_errors():
        raise RuntimeError("UNKNOWN: Stale file handle; pread() failed reading x.arrayrecord")
    with pytest.raises(RuntimeError, match="corrupted"), _system_errors():
        raise RuntimeError("DATA_LOSS: corrupted block")
