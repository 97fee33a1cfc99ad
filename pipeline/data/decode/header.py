"""Reads size, orientation and decoder of a batch of images from their headers.

Each step over the segments of a JPEG or the chunks of a PNG processes the whole batch with a few
vector operations. So a header takes about a microsecond. It also works in an exported graph, which
can contain only TensorFlow operations.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from pipeline.data.decode.integrity import MOST_JPEG_STEPS, MOST_JUNK_BYTES

_JPEG_MARKER = b"\xff\xd8\xff"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Maximum number of chunks of a PNG. A PNG of 100 MB in chunks of 8 KiB has 12,000.
_MOST_CHUNKS = 20_000
_MOST_EXIF_ENTRIES = 128
_MOST_EXIF_BYTES = 65_536  # a JPEG segment's length has 16 bits

_EXIF, _EXIF_CHUNK = (tuple(name) for name in (b"Exif\0\0", b"eXIf"))
_END_CHUNK = tuple(b"IEND")
_ORIENTATION_TAG = 0x0112
_SHORT, _LONG = 3, 4  # types of a TIFF field


class Headers(NamedTuple):
    """The headers of a batch of images.

    Attributes:
      by_tensorflow: bool [b], whether TensorFlow decodes the image; otherwise Pillow does.
      sizes: int32 [b, 2], height and width of the upright image. (0, 0) if the header of a JPEG is
        damaged; (1, 1) if Pillow decodes the image.
      orientations: int32 [b], 1 to 8 as in EXIF; 1 if Pillow decodes the image.
    """

    by_tensorflow: tf.Tensor
    sizes: tf.Tensor
    orientations: tf.Tensor


class _Walk(NamedTuple):
    """The state of reading the headers of a batch.

    Attributes:
      active: bool [b], whether there is more to read.
      place: int32 [b], start of the next segment or chunk.
      sizes: int32 [b, 2], height and width as stored.
      frames: int32 [b, 2], number of the SOF marker, and number of components; (0, 0) until found.
      exif: int32 [b, 2], first byte and length of the EXIF block; (0, 0) if there is none.
      junk: int32 [b], number of bytes of a JPEG that belong to no segment.
    """

    active: tf.Tensor
    place: tf.Tensor
    sizes: tf.Tensor
    frames: tf.Tensor
    exif: tf.Tensor
    junk: tf.Tensor


@tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
def read_headers(contents: tf.Tensor) -> Headers:
    """Reads the headers of a batch, string [b]. Invalid images do not raise errors here."""
    start = tf.strings.substr(contents, 0, len(_PNG_SIGNATURE))
    is_png = start == _PNG_SIGNATURE
    is_jpeg = tf.strings.substr(start, 0, len(_JPEG_MARKER)) == _JPEG_MARKER
    lengths = tf.strings.length(contents)
    nothing = tf.zeros([tf.size(contents), 2], tf.int32)
    walk = _Walk(is_jpeg, tf.where(is_png, 8, 2), nothing, nothing, nothing, nothing[:, 0])
    walk = _walk(contents, lengths, walk, _read_segment, MOST_JPEG_STEPS)
    # The two walks change different images.
    walk = walk._replace(active=is_png, sizes=_either(is_png, _png_sizes(contents), walk.sizes))
    walk = _walk(contents, lengths, walk, _read_chunk, _MOST_CHUNKS)
    orientations = _orientations(contents, walk.exif)
    marker, components = walk.frames[:, 0], walk.frames[:, 1]
    damaged = is_jpeg & (marker == 0)
    usual = (marker <= 0xC2) & ((components == 1) | (components == 3))
    by_tensorflow = is_png | (is_jpeg & (damaged | usual))
    sizes = _either(orientations >= 5, walk.sizes[:, ::-1], walk.sizes)
    return Headers(
        by_tensorflow,
        _either(by_tensorflow, sizes, tf.ones_like(sizes)),
        tf.where(by_tensorflow, orientations, 1),
    )


def _walk(
    contents: tf.Tensor, lengths: tf.Tensor, walk: _Walk, read: object, most_steps: int
) -> _Walk:
    def step(*state: tf.Tensor) -> _Walk:
        before = _Walk(*state)
        after: _Walk = read(contents, before)  # type: ignore[operator]
        # If the place decreases, there was an overflow: the declared length is wrong.
        inside = (after.place > before.place) & (after.place < lengths)
        return after._replace(
            active=before.active & after.active & inside,
            place=tf.where(before.active, after.place, before.place),
        )

    return _Walk(
        *tf.while_loop(
            lambda active, *_: tf.reduce_any(active), step, walk, maximum_iterations=most_steps
        )
    )


def _read_segment(contents: tf.Tensor, walk: _Walk) -> _Walk:
    """Reads one segment of each JPEG: FF, marker, 2-byte length (including itself), payload."""
    found = _bytes_at(contents, walk.place, 10)  # [b, 10]
    marker = found[:, 1]
    is_marker = (found[:, 0] == 0xFF) & (marker != 0) & (marker != 0xFF)
    length = found[:, 2] * 256 + found[:, 3]
    is_frame = is_marker & (marker >= 0xC0) & (marker <= 0xCF)
    for other in (0xC4, 0xC8, 0xCC):  # tables and a reserved marker
        is_frame &= marker != other
    is_frame &= walk.active
    is_exif = is_marker & (marker == 0xE1) & walk.active & (walk.exif[:, 0] == 0)
    is_exif &= _equals(found[:, 4:], _EXIF)
    is_alone = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
    ends = is_frame | (is_marker & ((marker == 0xDA) | (marker == 0xD9)))
    # libjpeg skips any number of bytes between two segments. Here each byte takes a step of the
    # whole batch, so the number is limited: a file full of zeros would take seconds.
    junk = walk.junk + tf.where(is_marker, 0, 1)
    step = tf.where(is_marker, tf.where(is_alone, 2, 2 + length), 1)
    sizes = tf.stack([found[:, 5] * 256 + found[:, 6], found[:, 7] * 256 + found[:, 8]], axis=1)
    exif = tf.stack([walk.place + 10, tf.maximum(length - 8, 0)], axis=1)
    # TensorFlow does not decode JPEGs with 12 bits or without a declared height.
    kind = tf.where((found[:, 4] == 8) & (sizes[:, 0] > 0), marker, 0xFF)
    return _Walk(
        ~ends & (junk <= MOST_JUNK_BYTES),
        walk.place + step,
        _either(is_frame, sizes, walk.sizes),
        _either(is_frame, tf.stack([kind, found[:, 9]], axis=1), walk.frames),
        _either(is_exif, exif, walk.exif),
        junk,
    )


def _read_chunk(contents: tf.Tensor, walk: _Walk) -> _Walk:
    """Reads one chunk of each PNG: 4-byte length of the data, type, data, 4-byte checksum."""
    found = _bytes_at(contents, walk.place, 8)  # [b, 8]
    length = _number(found[:, :4])
    kind = found[:, 4:]
    is_exif = _equals(kind, _EXIF_CHUNK) & walk.active
    # A type consists of four ASCII letters, so zeros are not read as chunks of length 0.
    letter = tf.bitwise.bitwise_or(kind, 0x20)
    is_chunk = tf.reduce_all((letter >= ord("a")) & (letter <= ord("z")), axis=1)
    exif = tf.stack([walk.place + 8, length], axis=1)
    return walk._replace(
        active=is_chunk & ~is_exif & ~_equals(kind, _END_CHUNK) & (length >= 0),
        place=walk.place + length + 12,
        exif=_either(is_exif, exif, walk.exif),
    )


def _png_sizes(contents: tf.Tensor) -> tf.Tensor:
    """Reads height and width, int32 [b, 2], from the first chunk."""
    places = tf.fill([tf.size(contents)], 16)
    numbers = _bytes_at(contents, places, 8)  # [b, 8]
    return tf.stack([_number(numbers[:, 4:]), _number(numbers[:, :4])], axis=1)


def _orientations(contents: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Reads orientations int32 [b] of EXIF blocks int32 [b, 2]; 1 if missing or invalid."""
    there = tf.where(exif[:, 0] > 0)  # [n, 1]
    upright = tf.ones([tf.size(contents)], tf.int32)

    def read() -> tf.Tensor:
        places = tf.gather_nd(exif, there)  # [n, 2]
        lengths = tf.clip_by_value(places[:, 1], 0, _MOST_EXIF_BYTES)
        chosen = tf.gather_nd(contents, there)
        starts = tf.minimum(places[:, 0], tf.strings.length(chosen))
        blocks = tf.strings.substr(chosen, starts, lengths)
        return tf.tensor_scatter_nd_update(upright, there, _block_orientations(blocks))

    return tf.cond(tf.size(there) > 0, read, lambda: upright)


def _block_orientations(blocks: tf.Tensor) -> tf.Tensor:
    """Reads orientations int32 [n] from EXIF blocks, string [n].

    A block is a small TIFF file: byte order, 42, position of the first directory. The directory
    has the number of entries, and 12 bytes per entry: tag, type, count, value.
    """
    places = tf.zeros([tf.size(blocks)], tf.int32)
    head = _bytes_at(blocks, places, 8)  # [n, 8]
    is_little, is_big = (_equals(head[:, :2], tuple(order)) for order in (b"II", b"MM"))
    directory = _ordered_number(head[:, 4:8], is_little)
    count = _ordered_number(_bytes_at(blocks, directory, 2), is_little)
    raw = _bytes_at(blocks, directory + 2, 12 * _MOST_EXIF_ENTRIES)
    entries = tf.reshape(raw, [-1, _MOST_EXIF_ENTRIES, 12])  # [n, m, 12]
    little = tf.tile(is_little[:, tf.newaxis], [1, _MOST_EXIF_ENTRIES])  # [n, m]
    tag, kind, short, long = (
        _ordered_number(entries[..., start:end], little)
        for start, end in ((0, 2), (2, 4), (8, 10), (8, 12))
    )
    fits = (tag == _ORIENTATION_TAG) & (tf.range(_MOST_EXIF_ENTRIES) < count[:, tf.newaxis])
    fits &= (kind == _SHORT) | (kind == _LONG)
    first = tf.argmax(fits, axis=1)
    value = tf.gather(tf.where(kind == _SHORT, short, long), first, batch_dims=1)
    valid = tf.reduce_any(fits, axis=1) & (is_little | is_big) & (value >= 1) & (value <= 8)
    return tf.where(valid, value, 1)


def _bytes_at(contents: tf.Tensor, places: tf.Tensor, count: int) -> tf.Tensor:
    """Returns `count` bytes from each place, with zeros after the end: int32 [b, count]."""
    starts = tf.clip_by_value(places, 0, tf.strings.length(contents))
    part = tf.strings.substr(contents, starts, tf.fill([tf.size(contents)], count))
    return tf.cast(tf.io.decode_raw(part, tf.uint8, fixed_length=count), tf.int32)


def _number(values: tf.Tensor) -> tf.Tensor:
    """Converts big-endian bytes [..., k] to int32 [...]; negative from 2**31 on."""
    result = tf.zeros_like(values[..., 0])
    for place in range(values.shape[-1]):
        result = result * 256 + values[..., place]
    return result


def _ordered_number(values: tf.Tensor, little: tf.Tensor) -> tf.Tensor:
    return tf.where(little, _number(values[..., ::-1]), _number(values))


def _equals(values: tf.Tensor, expected: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_all(values == tf.constant(expected), axis=-1)


def _either(condition: tf.Tensor, yes: tf.Tensor, no: tf.Tensor) -> tf.Tensor:
    """Selects rows [b, 2] from one or the other."""
    return tf.where(condition[:, tf.newaxis], yes, no)
