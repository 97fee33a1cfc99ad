"""Pickles of plain values and arrays are read as Python reads them, and forged ones run nothing."""

import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from pipeline.data.sources.plain_pickle import PickleRefused, read_plain_pickle

RECONSTRUCT = np.zeros(0).__reduce__()[0]


class Reduced:
    """Pickles as a call of a function, and the state that its result is given."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def forged_array(state_of_dtype, code="V8", content=b"A" * 64, shape=(8,)):
    dtype = Reduced(np.dtype, (code, False, True), state_of_dtype)
    return Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, content))


# What Python 2.7 and NumPy 1.16 write for
# {"data": array([[0, 1], [2, 255]], uint8), "n": [1, 70000]}
OF_PYTHON_2 = (
    b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\n"
    b"q\x03K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02K\x02\x86q\x08cnumpy\ndtype\nq\t"
    b"U\x02u1q\nK\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01|q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
    b"tq\x0eb\x89U\x04\x00\x01\x02\xffq\x0ftq\x10bU\x01nq\x11]q\x12(K\x01Jp\x11\x01\x00eu."
)


def test_what_python_2_wrote_is_read():
    found = read_plain_pickle(OF_PYTHON_2)
    assert found.keys() == {b"data", b"n"}
    np.testing.assert_array_equal(found[b"data"], np.array([[0, 1], [2, 255]], np.uint8))
    assert found[b"data"].dtype == np.uint8
    assert found[b"n"] == [1, 70000]


@pytest.mark.parametrize("protocol", range(5))
def test_plain_values_are_read_as_pickle_reads_them(protocol):
    value = {
        b"bytes": b"\x00\xff" * 300,
        "text": "ä" * 300,
        "numbers": [0, 1, 255, 256, 2**16, -1, 2**31, 2**70, 1.5, True, None],
        "lists": [[], [()], (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {1: {}}],
    }
    assert read_plain_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("kind", ["u1", "<i4", ">i8", "<u2"])
def test_arrays_of_integers_are_read_as_pickle_reads_them(protocol, kind):
    c_order = np.arange(12).reshape(3, 4).astype(kind)
    value = {"c": c_order, "fortran": np.asfortranarray(c_order), "empty": c_order[:0]}
    found = read_plain_pickle(pickle.dumps(value, protocol))
    for name, array in value.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


CHILD = """
import pickle, resource, sys
import numpy
from pipeline.data.sources.plain_pickle import PickleRefused, read_plain_pickle
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
content = sys.stdin.buffer.read()
try:
    read_plain_pickle(content)
except PickleRefused as error:
    sys.exit(f"refused {error}")
"""


def read_in_a_child(content):
    """In a process of its own: what is attempted here ends processes, or takes gigabytes."""
    return subprocess.run(
        [sys.executable, "-c", CHILD], input=content, capture_output=True, check=False, timeout=60
    )


OBJECT = Reduced(np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 0))
IN_PARTS = (3, "|", None, ("a",), {"a": (OBJECT, 0)}, 8, 1, 0)
NESTED_TUPLE = b"\x80\x02)" + b"\x85" * 1_000_000
ATTACKS = {
    # NumPy 2.4 takes the bytes for addresses of objects, and reads there.
    "a type with objects in it": pickle.dumps({"data": forged_array(IN_PARTS)}, 2),
    "a type with objects in it, called an integer": pickle.dumps(
        {"data": forged_array(IN_PARTS, "u8")}, 2
    ),
    "objects": pickle.dumps({"data": np.array([None])}, 2),
    "another number of bytes": pickle.dumps(
        forged_array((3, "|", None, None, None, -1, -1, 0), "u1", b"", (2**39,)), 2
    ),
    "a negative length": pickle.dumps(
        forged_array((3, "|", None, None, None, -1, -1, 0), "u1", b"A", (-1, -1)), 2
    ),
    "an array in place of its type": pickle.dumps(
        Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.zeros(1), False, b"A")), 2
    ),
    "a type in place of an array": pickle.dumps(Reduced(np.ndarray, ((2**40,), "u1")), 2),
    "a function": pickle.dumps(Reduced(exec, ("raise SystemExit('ran')",)), 2),
    "another codec": b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0zip\x86R.",
    "2^60 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "a text of 2^60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a.",
    "a number of 2^31 bytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "a number of 100,000 digits": b"L" + b"9" * 100_000 + b"L\n.",
    "a key of a million tuples": b"\x80\x02}" + NESTED_TUPLE[2:] + b"Ns.",
    "a module of a million tuples": NESTED_TUPLE + b"\x8c\x01a\x93.",
    "a type of a million tuples": b"\x80\x02cnumpy\ndtype\n" + NESTED_TUPLE[2:] + b"\x85R.",
    "the same text encoded again and again": b"\x80\x02X" + struct.pack("<I", 2**20) + b"a" * 2**20
    + b"q\x00]q\x01" + b"c_codecs\nencode\nh\x00\x85Ra" * 100_000 + b".",
    "five million lists": b"\x80\x02(" + b"]" * 5_000_000 + b"l.",
    "an opcode of its own": b"\x80\x02\x82\x01.",
    "a persistent object": b"Pname\n.",
    "nothing": b"",
    "no end": b"\x80\x02]",
    "an empty stack": b"\x80\x02a.",
}  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize("name", ATTACKS)
def test_a_forged_pickle_is_refused_in_one_message(name):
    done = read_in_a_child(ATTACKS[name])
    assert (done.returncode, done.stderr[:8]) == (1, b"refused "), done.stderr[-2000:]
    assert len(done.stderr) < 400


DEEP = {
    "lists": b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "tuples": NESTED_TUPLE + b".",
    "a place of the memo at 2^32": b"\x80\x02Nr\xff\xff\xff\xff.",
}


@pytest.mark.processes
@pytest.mark.parametrize("name", DEEP)
def test_a_strange_pickle_takes_little_memory_and_no_recursion(name):
    done = read_in_a_child(DEEP[name])
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_pickle_that_names_a_function_is_told_which():
    with pytest.raises(PickleRefused, match=r"asks for builtins\.exec"):
        read_plain_pickle(pickle.dumps(Reduced(exec, ("",)), 4))
