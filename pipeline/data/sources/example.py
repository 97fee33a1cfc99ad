"""Writes tf.Example records, and reads single features without copying the rest.

Reading walks the wire format instead of parsing the whole record. So the label of a record on
network storage can be read without its image. Neither reading nor writing needs TensorFlow.

References:
  https://protobuf.dev/programming-guides/encoding;
  tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

IMAGE_KEY = "image/encoded"
LABEL_KEY = "image/class/label"
NAME_KEY = "image/filename"

# Field numbers: Example.features, Features.feature, an entry of that map, and the lists in Feature.
_FEATURES, _ENTRY, _KEY, _VALUE = 1, 1, 1, 2
_BYTES_LIST, _INT64_LIST, _LIST_VALUE = 1, 3, 1

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

Buffer = bytes | mmap.mmap


def encode_example(image: bytes, label: int, name: str) -> bytes:
    """Serializes a tf.Example with the feature names of ImageNet.

    Args:
      image: Encoded image.
      label: 0 or more.
      name: The original file name.
    """
    features = (
        (IMAGE_KEY, _field(_BYTES_LIST, _field(_LIST_VALUE, image))),
        (LABEL_KEY, _field(_INT64_LIST, _field(_LIST_VALUE, _varint(label)))),
        (NAME_KEY, _field(_BYTES_LIST, _field(_LIST_VALUE, name.encode()))),
    )
    entries = (
        _field(_ENTRY, _field(_KEY, key.encode()) + _field(_VALUE, value))
        for key, value in features
    )
    return _field(_FEATURES, b"".join(entries))


def bytes_feature(record: Buffer, key: str, start: int = 0, end: int | None = None) -> bytes:
    """Returns the first value of a bytes feature.

    Args:
      record: A buffer with a serialized tf.Example from `start` to `end`.
      key: The feature's name.
      start: First byte.
      end: End, in bytes; None means the end of the buffer.

    Raises:
      ValueError: It is not a tf.Example, or has no such feature.
    """
    first, last = _value_of(record, key, _BYTES_LIST, "bytes", start, end)
    return record[first:last]


def int_feature(record: Buffer, key: str, start: int = 0, end: int | None = None) -> int:
    """Returns the first value of an integer feature; otherwise like `bytes_feature`."""
    first, last = _value_of(record, key, _INT64_LIST, "an integer", start, end)
    value, _ = _read_varint(record, first, last)
    return value - 2**64 if value >= 2**63 else value


def _value_of(
    record: Buffer, key: str, kind: int, words: str, start: int, end: int | None
) -> tuple[int, int]:
    """Returns start and end of the first value of a feature."""
    wanted = key.encode()
    feature = _find_feature(record, wanted, start, len(record) if end is None else end)
    for number, first, last in _fields(record, *feature):
        if number == kind:
            for item, value_first, value_last in _fields(record, first, last):
                if item == _LIST_VALUE:
                    return value_first, value_last
    raise ValueError(f"its feature {key!r} is not {words}")


def _find_feature(record: Buffer, wanted: bytes, start: int, end: int) -> tuple[int, int]:
    names = []
    for number, first, last in _fields(record, start, end):
        if number != _FEATURES:
            continue
        for _, entry_first, entry_last in _fields(record, first, last):
            parts = {n: (a, b) for n, a, b in _fields(record, entry_first, entry_last)}
            if _KEY in parts and _VALUE in parts:
                name = record[slice(*parts[_KEY])]
                if name == wanted:
                    return parts[_VALUE]
                names.append(name.decode(errors="replace"))
    found = (
        f"it has {', '.join(sorted(names)[:8])}" if names else "it has none, or is not a tf.Example"
    )
    raise ValueError(f"no feature {wanted.decode()!r}: {found}")


def _fields(record: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (number, start, end) of each field of a message."""
    while start < end:
        tag, start = _read_varint(record, start, end)
        number, kind = tag >> 3, tag & 7
        if kind == _LENGTH:
            length, start = _read_varint(record, start, end)
            stop = start + length
        elif kind == _VARINT:
            _, stop = _read_varint(record, start, end)
        elif kind in (_FIXED64, _FIXED32):
            stop = start + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError("it is not a tf.Example")
        if stop > end:
            raise ValueError("it is not a complete tf.Example")
        yield number, start, stop
        start = stop


def _read_varint(record: Buffer, start: int, end: int) -> tuple[int, int]:
    """Returns a variable-length integer and its end."""
    value = shift = 0
    while start < end and shift < 70:
        byte = record[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
    raise ValueError("it is not a tf.Example")


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
