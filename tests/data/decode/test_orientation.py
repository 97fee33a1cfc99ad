"""EXIF orientation: an image is seen as every viewer shows it."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from pipeline.config import AugmentConfig, DataConfig
from pipeline.data.decode.header import read_headers
from pipeline.data.encode import encode_image
from pipeline.data.images import load_image
from pipeline.data.input import augmented_examples
from pipeline.data.reader import make_reader
from pipeline.data.sources.source import open_source
from pipeline.data.split import Split
from tests.data.decode.test_decoders import encoded, exported_decoder, picture, read_batch
from tests.data.prepared import write_tfrecord

TAG = 0x0112
VALUES = range(1, 9)
SAVED = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100},
}
DECODED_ALIKE = ("PNG", "WEBP", "TIFF")  # without loss


def tagged(image, kind, orientation):
    """The image as stored, with a tag that says how it is to be shown."""
    exif = Image.Exif()
    exif[TAG] = orientation
    return encoded(image, kind, exif=exif, **SAVED[kind])


def shown(image, orientation):
    """What viewers show, by Pillow."""
    stream = io.BytesIO(tagged(image, "PNG", orientation))
    return ImageOps.exif_transpose(Image.open(stream)).convert("RGB")


# The crop must be turned with the image, which squashing an image of any kind would not show.
@pytest.mark.parametrize(("kind", "resize"), [("JPEG", "squash"), *((k, "crop") for k in SAVED)])
def test_all_eight_orientations_are_applied_everywhere(tmp_path, kind, resize):
    image = picture(60, 84)
    config = DataConfig(source="image_folder", image_size=16, resize=resize, crop_fraction=0.875)
    contents = [tagged(image, kind, value) for value in VALUES]
    paths = [tmp_path / str(value) for value in VALUES]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    upright = [encoded(shown(image, value), kind, **SAVED[kind]) for value in VALUES]
    expected = np.stack([load_image(content, "", config) for content in upright]).astype(int)
    assert len({pixels.tobytes() for pixels in expected}) == 8
    trained = read_batch(paths, config)
    # A resized transposed image is the transposed resized one to rounding.
    tolerance = 1 if kind in DECODED_ALIKE else 6
    assert np.abs(trained - expected).max() <= tolerance
    for content, pixels in zip(contents, trained, strict=True):
        np.testing.assert_array_equal(load_image(content, "", config), pixels)
        stored = encode_image(content, 10**9)
        np.testing.assert_array_equal(load_image(stored.content, "", config), pixels)
        assert stored.converted == (kind not in ("JPEG", "PNG"))
    if kind in ("JPEG", "PNG"):
        exported = exported_decoder(config)(tf.constant(contents)).numpy()
        np.testing.assert_array_equal(exported, trained)


def test_records_of_tfrecord_files_are_turned_upright_as_files_are(tmp_path):
    contents = [tagged(picture(60, 84), kind, v) for v in VALUES for kind in ("JPEG", "WEBP")]
    labels = [i % 2 for i in range(len(contents))]
    write_tfrecord(tmp_path / "train-00000-of-00001", contents, labels)
    write_tfrecord(tmp_path / "validation-00000-of-00001", contents[:2], labels[:2])
    config = DataConfig(source="tfrecord", path=str(tmp_path), image_size=16, resize="crop")
    split = open_source(config, 0).splits["train"]
    reader = make_reader(split, config, len(contents), None)

    @tf.function(autograph=False)
    def read(index):
        return reader.decode({"index": index, **reader.look(index)}, None)

    images, readable = read(tf.range(len(contents), dtype=tf.int64))
    assert readable.numpy().all()
    for pixels, content in zip(images.numpy(), contents, strict=True):
        np.testing.assert_array_equal(pixels, load_image(content, "", config))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_prepared_image_is_measured_upright(kind):
    image = picture(60, 84)
    for value in VALUES:
        stored = encode_image(tagged(image, kind, value), 10**9)
        expected = np.asarray(shown(image, value)).astype(int)
        assert stored.pixels.shape == expected.shape
        assert np.abs(stored.pixels - expected).max() <= (0 if kind == "PNG" else 30)


def test_random_crops_are_drawn_in_the_upright_image(tmp_path):
    """The same example of the same size is cut at the same place, however it is stored."""
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    image = picture(60, 84)
    Image.fromarray(np.asarray(image)).save(paths[0])
    for path, value in zip(paths[1:], (3, 6, 7), strict=True):
        # Stored so that it is shown as `image`.
        inverse = {6: 8, 8: 6}.get(value, value)
        path.write_bytes(tagged(shown(image, inverse), "PNG", value))
    config = DataConfig(
        source="image_folder", image_size=16,
        augment=AugmentConfig(resized_crop_min_area=0.2, flip=False),
    )  # fmt: skip
    seen = []
    for path in paths:
        split = Split(np.zeros(1, np.int32), paths=[str(path)])
        seen.append(augmented_examples(split, config, seed=3, epochs=4, indices=[0])[0])
    for pixels in seen[1:]:
        assert np.abs(pixels.astype(int) - seen[0]).max() <= 1
    assert len({epoch.tobytes() for epoch in seen[0]}) == 4


def headers_of(*contents):
    headers = read_headers(tf.constant(contents))
    return headers.by_tensorflow.numpy(), headers.sizes.numpy(), headers.orientations.numpy()


def exif_block(order, *, kind=3, orientation=6, before=5):
    """An EXIF block by hand, with other entries before the orientation's."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    entries = b"".join(struct.pack(f"{order}HHIHH", 0x100 + i, 3, 1, 6, 0) for i in range(before))
    value = (
        struct.pack(f"{order}HH", orientation, 0)
        if kind == 3
        else struct.pack(f"{order}I", orientation)
    )
    entries += struct.pack(f"{order}HHI", TAG, kind, 1) + value
    return head + struct.pack(f"{order}H", before + 1) + entries + bytes(4)


def segment(marker, payload):
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_with(*segments):
    plain = encoded(picture(20, 30), "JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation_is_found_in_any_byte_order_and_place(order, kind):
    exif = segment(0xE1, b"Exif\0\0" + exif_block(order, kind=kind))
    other = segment(0xE2, b"ICC_PROFILE\0" + bytes(60_000))
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(100))
    contents = (
        jpeg_with(exif),
        jpeg_with(segment(0xE0, b"JFIF\0" + bytes(9)), exif),
        jpeg_with(other, other, xmp, exif),
        jpeg_with(segment(0xFE, b"a comment"), b"\xff\xff", exif),  # fill bytes before a marker
        jpeg_with(segment(0xFE, b"a comment"), b"junk", exif),
    )
    by_tensorflow, sizes, orientations = headers_of(*contents)
    assert by_tensorflow.all()
    assert sizes.tolist() == [[30, 20]] * len(contents)
    assert orientations.tolist() == [6] * len(contents)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", 0)


def test_the_exif_chunk_of_a_png_is_found_before_and_after_its_pixels():
    plain = encoded(picture(20, 30), "PNG")
    start, end = plain.index(b"IDAT") - 4, plain.index(b"IEND") - 4
    exif = chunk(b"eXIf", exif_block(">", orientation=8))
    contents = [plain[:place] + exif + plain[place:] for place in (start, end)]
    _, sizes, orientations = headers_of(plain, *contents)
    assert sizes.tolist() == [[20, 30], [30, 20], [30, 20]]
    assert orientations.tolist() == [1, 8, 8]


def test_headers_of_a_mixed_batch_are_those_of_each_image_alone():
    kinds = ("JPEG", "PNG", "WEBP")
    contents = [tagged(picture(20 + v, 60), kind, v) for v in VALUES for kind in kinds]
    together = headers_of(*contents)
    alone = [headers_of(content) for content in contents]
    for values, single in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(values, np.concatenate(single))
    assert together[2].tolist() == [v if kind != "WEBP" else 1 for v in VALUES for kind in kinds]


def test_damaged_and_absurd_exif_blocks_say_nothing():
    block = exif_block("<")
    blocks = (
        b"", b"II", b"XX" + block[2:], block[:14], block[:20],
        block[:4] + struct.pack("<I", 2**31) + block[8:],
        block[:4] + struct.pack("<I", 60_000) + block[8:],
        exif_block("<", orientation=0), exif_block("<", orientation=9), exif_block("<", kind=5),
    )  # fmt: skip
    contents = [jpeg_with(segment(0xE1, b"Exif\0\0" + block)) for block in blocks]
    _, sizes, orientations = headers_of(*contents)
    assert orientations.tolist() == [1] * len(blocks)
    assert sizes.tolist() == [[20, 30]] * len(blocks)


def test_headers_of_what_is_no_image_are_read_without_an_error():
    jpeg, png = encoded(picture(20, 30), "JPEG"), encoded(picture(20, 30), "PNG")
    contents = [b"", b"\xff", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"text" * 100]
    contents += [jpeg[:n] for n in range(0, 700, 7)] + [png[:n] for n in range(0, 60, 7)]
    contents += [
        png[:33] + b"\xff\xff\xff\xff" + png[37:],
        png[:33] + b"\x7f\xff\xff\xff" + png[37:],
    ]
    by_tensorflow, sizes, orientations = headers_of(*contents)
    assert by_tensorflow[:6].tolist() == [False, False, True, True, False, False]
    assert (sizes >= 0).all()
    assert (orientations == 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_headers_of_random_bytes_are_read_without_an_error(seed):
    draw = np.random.default_rng(seed)
    starts = (b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1\x01\x00Exif\0\0II*\0")
    contents = [start + draw.bytes(int(draw.integers(0, 900))) for start in starts * 20]
    _, _, orientations = headers_of(*contents)
    assert ((orientations >= 1) & (orientations <= 8)).all()
