"""Archives that would take too much memory, never end, or lead elsewhere."""

import gzip
import io
import subprocess
import sys
import tarfile

import pytest

from pipeline.storage.archive import gunzip, read_tar


def make_tar(*members, form=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content, changes in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_by_their_name(form):
    content = make_tar(
        ("top", b"", {"type": tarfile.DIRTYPE}),
        ("top/a", b"a" * 512, {"mtime": 1.5}),  # PAX writes a header of its own for it
        ("top/b", b"", {}),
        ("top/c" * 50, b"long", {} if form != tarfile.USTAR_FORMAT else {"name": "top/d"}),
        ("top/e", b"e" * 700, {}),
        form=form,
    )
    assert read_tar(content, ("a", "b", "e", "missing")) == {
        "a": b"a" * 512, "b": b"", "e": b"e" * 700,
    }  # fmt: skip


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"S"])
def test_links_and_sparse_files_are_no_members(kind):
    content = make_tar(("a", b"", {"type": kind, "linkname": "/etc/passwd"}), ("b", b"b", {}))
    assert read_tar(content, ("a", "b")) == {"b": b"b"}


def with_size(field):
    """An archive whose first member has this field in place of its size."""
    content = bytearray(make_tar(("a", b"a", {})))
    content[124:136] = field
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


DAMAGED = {
    "a negative size, at which tarfile never ends": with_size(b"\xff" * 11 + b"\x00"),
    "2^80 bytes": with_size(b"\x80\x00" + b"\xff" * 10),
    "more bytes than there are": with_size(b"00000777777\0"),
    "no number": with_size(b"0x123456789\0"),
    "text": b"not found" * 1000,
    "nothing": b"",
    "a checksum": bytes([1]) + make_tar(("a", b"a", {}))[1:],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_archive_is_an_error(name):
    with pytest.raises(ValueError, match=r"empty|tar|truncated"):
        read_tar(DAMAGED[name], ("a",))


def test_gzip_is_unpacked_up_to_its_limit():
    packed = gzip.compress(b"a" * 1000)
    assert gunzip(packed, 1000) == b"a" * 1000
    assert gunzip(packed + packed, 2000) == b"a" * 2000
    for content, limit, message in (
        (packed, 999, "more than 999 bytes"),
        (packed[:-4], 1000, "incomplete"),
        (b"text", 1000, "damaged"),
        (packed[:20] + b"\xff" + packed[21:], 1000, "damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            gunzip(content, limit)


@pytest.mark.processes
def test_a_gzip_bomb_takes_no_more_memory_than_its_limit(tmp_path):
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(2**30), 9))  # 1 MB
    code = (
        "import resource, sys; from pipeline.storage.archive import gunzip\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))\n"
        "try: gunzip(open(sys.argv[1], 'rb').read(), 2**26)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bomb)], capture_output=True, text=True, check=False
    )
    assert "more than 67,108,864 bytes" in done.stdout, done.stderr
