"""Small files that state large sizes: refused, or decoded within bounds of memory and time."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.encode import encode_image
from pipeline.data.images import bad_images_named, load_image
from pipeline.errors import DataError
from tests.data.decode.test_decoders import read_batch

CONFIG = DataConfig(source="image_folder", image_size=8)


def tiff(width, height, bits, compression, tags, data):
    """A TIFF of RGB, or of one floating-point channel, without checks; `data` begins at byte 8."""
    out, entries = bytearray(b"II*\0" + bytes(4) + data), []
    tags = {256: [width], 257: [height], 258: bits, 259: [compression], 277: [len(bits)], **tags}
    for tag, values in sorted({262: [2 if len(bits) == 3 else 1], **tags}.items()):
        body = struct.pack(f"<{len(values)}I", *values)
        place = body if len(values) == 1 else struct.pack("<I", len(out))
        out += body if len(values) > 1 else b""
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + place)
    struct.pack_into("<I", out, 4, len(out))
    return bytes(out) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def zeros(size):
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(size >> 20)), packer.flush()])


def strips(width, height, count, rows):
    tags = {273: [8] * count, 278: [rows], 279: [3 * width] * count}
    return tiff(width, height, [8] * 3, 1, tags, bytes(3 * width * height))


def tile(side):
    data = zeros(2**20)
    tags = {322: [side], 323: [side], 324: [8], 325: [len(data)]}
    return tiff(16, 16, [8] * 3, 8, tags, data)


def png(width, height):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IEND", b"")


def jpeg(**settings):
    stream = io.BytesIO()
    Image.new("L", (4000, 4000)).save(stream, "JPEG", **settings)
    return stream.getvalue()


def two_frames():
    content = jpeg()
    start = content.index(b"\xff\xc0")
    frame = bytearray(content[start : start + 2 + content[start + 3]])
    frame[5:9] = struct.pack(">HH", 65500, 65500)
    return (
        content[:start]
        + content[start : start + len(frame)]
        + frame
        + content[start + len(frame) :]
    )


def thousands_of_scans():
    content = jpeg(progressive=True)
    last = content.rindex(b"\xff\xc4", 0, content.rindex(b"\xff\xda"))
    return content[:-2] + content[last:-2] * 5000 + content[-2:]


def gif():
    frame = b"," + struct.pack("<4H", 60000, 60000, 60000, 60000) + b"\0\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6) + frame + b";"


def bmp():
    size = struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 1 - 2**31, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + size + bytes(40)


# What is forged -> the file, and the reason in the message.
FORGED = {
    "strips that repeat": (lambda: strips(1000, 1000, 300_000, 1), "300,000 strips or tiles"),
    "strips of all rows": (lambda: strips(2000, 2000, 300_000, 1999), "300,000 strips or tiles"),
    "a tile larger than its image": (lambda: tile(65520), "decoder error"),
    "a PNG of 2^32 - 1 pixels a side": (lambda: png(2**32 - 1, 2**32 - 1), "4294967295 x"),
    "a PNG of 2^32 - 5 by 10 pixels": (lambda: png(2**32 - 5, 10), "4294967291 x 10 pixels"),
    "a JPEG of two frames": (two_frames, r"\w"),
    "a JPEG of thousands of scans": (thousands_of_scans, r"scans of 16,000,000 pixels"),
    "a GIF frame outside of its canvas": (gif, "120000 x 120000 pixels"),
    "a BMP of 2^31 pixels a side": (bmp, "2147483647 x 2147483649 pixels"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_image_is_a_bad_image(tmp_path, name):
    make, reason = FORGED[name]
    content = make()
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"cannot read the image a\.jpg: .*{reason}"):
        load_image(content, "a.jpg", CONFIG)
    with pytest.raises(DataError, match=reason), bad_images_named():
        read_batch([tmp_path / "a.jpg"], CONFIG)
    with pytest.raises(Exception, match=reason) as raised:
        encode_image(content, CONFIG.max_pixels)
    assert type(raised.value).__name__ == "UnreadableError"


SIDE = 8000
# Compressed to a thousandth, of 64 million pixels -> most bytes a pixel to decode it.
LARGE = {
    "rgb": (lambda data: tiff(SIDE, SIDE, [8] * 3, 8, {273: [8], 279: [len(data)]}, data), 3, 9),
    "float": (
        lambda data: tiff(SIDE, SIDE, [32], 8, {273: [8], 279: [len(data)], 339: [3]}, data), 4, 14,
    ),
}  # fmt: skip

PEAK = """
import resource, sys
from pipeline.data.decode.pillow_image import read_image
content = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_image(content, 10**8)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.processes
@pytest.mark.parametrize("kind", LARGE)
def test_a_large_image_takes_a_few_bytes_a_pixel(tmp_path, kind):
    make, channels, most = LARGE[kind]
    content = make(zeros(SIDE * SIDE * channels + 2**20))
    assert len(content) < 10**6
    (tmp_path / "a.tif").write_bytes(content)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "a.tif")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak < most * SIDE * SIDE


def test_rows_that_are_converted_one_after_the_other_are_the_whole(monkeypatch):
    draw = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    for mode in ("RGB", "RGBA", "CMYK", "L", "P", "LA", "1"):
        image = Image.fromarray(draw, "CMYK" if mode == "CMYK" else "RGBA").convert(mode)
        stream = io.BytesIO()
        image.save(stream, "TIFF")
        monkeypatch.setattr("pipeline.data.decode.pillow_image._PIXELS_AT_A_TIME", 2**22)
        whole = encode_image(stream.getvalue(), 10**6).pixels
        monkeypatch.setattr("pipeline.data.decode.pillow_image._PIXELS_AT_A_TIME", 100)
        np.testing.assert_array_equal(encode_image(stream.getvalue(), 10**6).pixels, whole)


def test_too_little_memory_is_one_message_and_skips_no_image(tmp_path, monkeypatch):
    def load(image):
        raise MemoryError

    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    config = CONFIG.model_copy(update={"on_bad_image": "skip"})
    message = r"not enough memory to decode .*a\.gif.*data\.max_pixels"
    with pytest.raises(DataError, match=message):
        load_image((tmp_path / "a.gif").read_bytes(), "a.gif", config)
    with pytest.raises(DataError, match=message), bad_images_named():
        read_batch([tmp_path / "a.gif"], config)
