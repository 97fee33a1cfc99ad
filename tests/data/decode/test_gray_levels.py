"""Pixels of more than 8 bits keep their meaning: each of Pillow's modes against NumPy."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from pipeline.data.decode.pillow_image import read_image
from pipeline.data.decode.unreadable import UnreadableError

BYTES = np.arange(256, dtype=np.uint8).reshape(16, 16)
SHARES = BYTES / 255.0
COLORS = np.stack([BYTES, BYTES[::-1], BYTES.T], axis=-1)


def saved(image, kind, **settings):
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def read(content):
    return read_image(content, 10**6).pixels


def levels(content):
    pixels = read(content)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def tiff(values, sample_format, order="<", photometric=1, bits=None, extra=()):
    """A TIFF of one strip, by hand: any data type and byte order."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits = bits or values.dtype.itemsize * 8
    # Tag, type (3: short, 4: long, 11: float), value.
    entries = [
        (256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 0), (277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, sample_format),
        *extra,
    ]  # fmt: skip
    place = 8 + 2 + 12 * len(entries) + 4
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    body = b""
    for tag, kind, value in entries:
        value = place if tag == 273 else value
        code = {3: "Hxx", 4: "I", 11: "f"}[kind]
        body += struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}{code}", value)
    return head + body + bytes(4) + data


def stated(low, high):
    return ((340, 11, low), (341, 11, high))


@pytest.mark.parametrize("order", ["<", ">"])
def test_unsigned_16_bits_keep_their_high_byte(order):
    values = np.random.default_rng(0).integers(0, 65536, (9, 7), np.uint16)
    np.testing.assert_array_equal(levels(tiff(values, 1, order)), values >> 8)
    np.testing.assert_array_equal(levels(saved(Image.fromarray(values), "PNG")), values >> 8)
    np.testing.assert_array_equal(levels(saved(Image.fromarray(values), "JPEG2000")), values >> 8)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_floating_point_tiff_from_0_to_1_goes_from_black_to_white(order):
    content = tiff(SHARES.astype(np.float32), 3, order)
    np.testing.assert_array_equal(levels(content), BYTES)


def test_white_can_be_zero():
    inverted = tiff(SHARES.astype(np.float32), 3, photometric=0)
    np.testing.assert_array_equal(levels(inverted), 255 - BYTES)
    inverted = tiff(BYTES.astype(np.uint16) * 257, 1, photometric=0)
    np.testing.assert_array_equal(levels(inverted), 255 - BYTES)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "sample_format", "low", "high"),
    [
        (np.float32, 3, -1.0, 3.0),
        (np.int16, 2, -1000.0, 1550.0),
        (np.int32, 2, 0.0, 255 * 4096.0),
        (np.uint16, 1, 0.0, 4080.0),
    ],
)
def test_the_stated_range_is_used(order, dtype, sample_format, low, high):
    values = (low + SHARES * (high - low)).astype(dtype)
    content = tiff(values, sample_format, order, extra=stated(low, high))
    expected = np.rint((values.astype(np.float64) - low) / (high - low) * 255)
    np.testing.assert_array_equal(levels(content), expected)


def test_unsigned_32_bits_above_the_signed_range_are_not_negative():
    values = (SHARES * 2**32).clip(0, 2**32 - 256).astype(np.uint32)
    content = tiff(values, 1, extra=stated(0.0, float(2**32)))
    np.testing.assert_array_equal(levels(content), np.rint(values / 2**32 * 255))


def test_values_outside_a_stated_range_are_clipped():
    values = np.array([[-5.0, 0.0, 5.0, 10.0, 20.0]], np.float32)
    assert levels(tiff(values, 3, extra=stated(0.0, 10.0))).tolist() == [[0, 0, 128, 255, 255]]


@pytest.mark.parametrize(
    ("values", "sample_format", "extra", "message"),
    [
        (np.array([[0, 300]], np.int32), 2, (), "32-bit integers.*SMinSampleValue.*Convert"),
        (np.array([[0, 300]], np.uint32), 1, (), "32-bit integers.*SMinSampleValue"),
        (np.array([[-3, 300]], np.int16), 2, (), "signed or 32-bit integers"),
        (np.array([[0, 255]], np.float32), 3, (), "from 0 to 255, but must be from 0 to 1"),
        (np.array([[0.5, np.nan]], np.float32), 3, (), "nan"),
        (np.array([[0.5, np.nan]], np.float32), 3, stated(0.0, 1.0), "NaN"),
        (np.array([[0.5, 1]], np.float32), 3, stated(2.0, 2.0), "range of values, from 2 to 2"),
        (np.array([[0.5, 1]], np.float64), 3, (), "TIFF of a kind that Pillow does not support"),
    ],
)
def test_values_of_unknown_meaning_are_refused(values, sample_format, extra, message):
    with pytest.raises(UnreadableError, match=message):
        read(tiff(values, sample_format, extra=extra))


def test_12_bits_are_scaled_by_their_own_range():
    values = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    pairs = values.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    ).astype(np.uint8)
    content = tiff(packed.reshape(16, 24), 1, bits=12)
    content = content.replace(
        struct.pack("<HHIHxx", 256, 3, 1, 24), struct.pack("<HHIHxx", 256, 3, 1, 16)
    )
    np.testing.assert_array_equal(levels(content), values >> 4)


def palette():
    image = Image.fromarray(BYTES, "L").convert("P")
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    return image


PALETTE = np.stack([BYTES, 255 - BYTES, np.full_like(BYTES, 7)], axis=-1)
GRAY = np.repeat(BYTES[..., None], 3, axis=-1)
ALPHA = np.dstack([COLORS, BYTES])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(Image.fromarray(BYTES > 127), "TIFF"), np.where(GRAY > 127, 255, 0)),
        (saved(Image.fromarray(BYTES > 127), "PNG"), np.where(GRAY > 127, 255, 0)),
        (saved(Image.fromarray(BYTES), "TIFF"), GRAY),
        (saved(Image.fromarray(np.dstack([BYTES, BYTES.T])), "TIFF"), GRAY),
        (saved(Image.fromarray(np.dstack([BYTES, BYTES.T])), "PNG"), GRAY),
        (saved(palette(), "TIFF"), PALETTE),
        (saved(palette(), "PNG", transparency=5), PALETTE),
        (saved(palette(), "GIF"), PALETTE),
        (saved(palette(), "BMP"), PALETTE),
        (saved(Image.fromarray(COLORS), "TIFF"), COLORS),
        (saved(Image.fromarray(ALPHA), "TIFF"), COLORS),
        (saved(Image.fromarray(ALPHA), "PNG"), COLORS),
        (saved(Image.fromarray(ALPHA), "WEBP", lossless=True, exact=True), COLORS),
        (saved(Image.fromarray(255 - ALPHA, "CMYK"), "TIFF"),
         np.asarray(Image.fromarray(255 - ALPHA, "CMYK").convert("RGB"))),
        (saved(Image.fromarray(COLORS), "JPEG2000"), COLORS),
    ],
)  # fmt: skip
def test_images_of_8_bits_keep_their_values(content, expected):
    np.testing.assert_array_equal(read(content), expected)


def test_a_tiff_of_many_bits_is_turned_upright_too():
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10_000
    content = tiff(values, 1, extra=())
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = 6
    turned = saved(Image.open(io.BytesIO(content)), "TIFF", tiffinfo=info)
    np.testing.assert_array_equal(levels(turned), np.rot90(values >> 8, -1))
