"""NumPy's files as NumPy writes them, and forged ones that would take gigabytes."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from pipeline.storage.npz import ArraysRefused, read_npy, read_npz

ARRAYS = {
    "floats": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big endian": np.arange(5, dtype=">i8"),
    "scalar": np.asarray(7),
    "empty": np.zeros((0, 4), np.int32),
    "texts": np.array(["a", "ä€"]),
    "text": np.asarray(""),
    "booleans": np.array([True, False]),
    "big": np.arange(1_000_000, dtype=np.int64),
}


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(members, kind=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def header(description):
    """A .npy file of one header and nothing else."""
    text = description.encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text


def declared(dtype, shape):
    return header(f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_numpy_reads_them(save):
    stream = io.BytesIO()
    save(stream, **ARRAYS)
    found = read_npz(stream, 2**24)
    stream.seek(0)
    with np.load(stream) as expected:
        assert found.keys() == set(expected.files)
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_as_numpy_reads_it(name):
    found = read_npy(npy(ARRAYS[name]))
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert found.dtype == ARRAYS[name].dtype


def test_members_that_are_no_arrays_are_passed_over():
    content = npz([("a.npy", npy(np.ones(3))), ("notes.txt", b"text")])
    assert read_npz(io.BytesIO(content), 2**20).keys() == {"a"}


ONES = npy(np.ones(1000, np.uint8))
FORGED_HEADERS = {
    "2^60 values": declared("'<f4'", "(1152921504606846976,)"),
    "one value of 8 GB": declared("'<U2000000000'", "()"),
    "a length that is computed": declared("'S0'", "(2**40,)"),
    "2^40 empty values": declared("'S0'", "(1099511627776,)"),
    "a negative length": declared("'u1'", "(-1, -1)"),
    "a length that overflows": declared("'u1'", "(0, 140737488355328, 140737488355328)"),
    "objects": npy(np.array([None]), allow_pickle=True),
    "fields": npy(np.zeros(2, [("a", "u1")])),
    "objects in fields": declared("[('a', '|O')]", "(1,)") + b"A" * 8,
    "10,000 brackets": header("(" * 9_000),
    "a call": declared("print(1)", "()"),
    "a header of 4 GB": b"\x93NUMPY\x02\0" + struct.pack("<I", 2**32 - 1) + b" " * 20_000,
    "version 3": b"\x93NUMPY\x03\0" + struct.pack("<I", 10) + b" " * 10,
    "text that is not valid Unicode": declared("'<U1'", "(1,)") + b"\xff" * 4,
    "a pickle": pickle.dumps([1]),
    "nothing": b"",
    "one byte less": ONES[:-1],
    "one byte more": ONES + b"A",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED_HEADERS)
def test_a_forged_header_is_one_error(name):
    with pytest.raises(ArraysRefused) as raised:
        read_npy(FORGED_HEADERS[name])
    assert len(str(raised.value)) < 300
    with pytest.raises(ArraysRefused):
        read_npz(io.BytesIO(npz([("a.npy", FORGED_HEADERS[name])])), 2**40)


def with_declared(content, size=None, packed=None, count=1):
    """An archive whose table declares other sizes of its first members."""
    table = bytearray(content)
    at = 0
    for _ in range(count):
        at = content.index(b"PK\1\2", at + 1)
        if packed is not None:
            table[at + 20 : at + 24] = struct.pack("<I", packed)
        if size is not None:
            table[at + 24 : at + 28] = struct.pack("<I", size)
    return bytes(table)


def overlapping():
    """Two members in the table that are the same bytes of the file."""
    content = npz([("a.npy", npy(np.zeros(100_000)))])
    at, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry = content[at:end]
    both = entry + entry.replace(b"a.npy", b"b.npy")
    counts = struct.pack("<HHII", 2, 2, len(both), at)
    return content[:at] + both + content[end : end + 8] + counts + b"\0\0"


STORED = npz([("a.npy", ONES)], zipfile.ZIP_STORED)
FORGED_ARCHIVES = {
    "a member of 4 GB": with_declared(STORED, size=2**32 - 2),
    "a packed member of 4 GB": with_declared(npz([("a.npy", ONES)]), size=2**32 - 2),
    "more packed bytes than there are": with_declared(STORED, packed=2**32 - 2, size=2**32 - 2),
    "fewer bytes than the array has": with_declared(STORED, size=10),
    "the same bytes twice": overlapping(),
    "another packing": npz([("a.npy", ONES)], zipfile.ZIP_BZIP2),
    "LZMA": npz([("a.npy", ONES)], zipfile.ZIP_LZMA),
    "a wrong checksum": STORED.replace(b"\1" * 1000, b"\1" * 999 + b"\2"),
    "cut": STORED[:-30],
    "text": b"not found",
    "nothing": b"",
}


@pytest.mark.parametrize("name", FORGED_ARCHIVES)
def test_a_forged_archive_is_one_error(name):
    with pytest.raises(ArraysRefused):
        read_npz(io.BytesIO(FORGED_ARCHIVES[name]), 2**40)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_an_error():
    content = npz([("a.npy", ONES), ("a.npy", ONES)])
    with pytest.raises(ArraysRefused, match="the same name"):
        read_npz(io.BytesIO(content), 2**20)


def test_an_archive_of_a_million_members_is_an_error():
    members = [(f"{number}", b"") for number in range(200_000)]
    with pytest.raises(ArraysRefused, match="too many members"):
        read_npz(io.BytesIO(npz(members, zipfile.ZIP_STORED)), 2**20)


@pytest.mark.processes
def test_an_archive_that_unpacks_to_gigabytes_takes_little_memory(tmp_path):
    file = tmp_path / "bomb.npz"
    np.savez_compressed(file, a=np.zeros(2**29, np.uint8))
    assert file.stat().st_size < 2**20
    code = (
        "import resource, sys, numpy; from pipeline.storage.npz import ArraysRefused, read_npz\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))\n"
        "try: read_npz(open(sys.argv[1], 'rb'), 2**26)\n"
        "except ArraysRefused as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert "The limit is 67,108,864" in done.stdout, done.stderr
