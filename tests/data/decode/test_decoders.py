"""Every consumer of an image file sees the same pixels, whatever the file's format and size."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.encode import encode_image
from pipeline.data.images import load_image
from pipeline.data.reader import make_reader
from pipeline.data.split import Split
from pipeline.export.metadata import ExportMetadata, Preprocessing
from pipeline.export.saved_model import Classifier
from tests.export.architectures import ARCHITECTURES, random_model

SIZE = 24

# Height and width: much larger than the input (decoded at an eighth), slightly larger, equal,
# smaller, odd, extreme.
SIZES = ((430, 610), (26, 30), (24, 24), (9, 13), (75, 101), (7, 211), (300, 5))


def picture(height, width):
    draw = np.random.default_rng(height * 1000 + width)
    small = draw.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, kind, **settings):
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def sixteen_bits(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 255)


def with_alpha(image):
    image = image.convert("RGBA")
    image.putalpha(image.getchannel("R"))
    return image


FORMATS = {
    "jpeg 4:4:4": lambda i: encoded(i, "JPEG", quality=90, subsampling=0),
    "jpeg 4:2:2": lambda i: encoded(i, "JPEG", quality=90, subsampling=1),
    "jpeg 4:2:0": lambda i: encoded(i, "JPEG", quality=90, subsampling=2),
    "jpeg progressive": lambda i: encoded(i, "JPEG", quality=90, progressive=True),
    "jpeg gray": lambda i: encoded(i.convert("L"), "JPEG"),
    "jpeg cmyk": lambda i: encoded(i.convert("CMYK"), "JPEG"),
    "png": lambda i: encoded(i, "PNG"),
    "png alpha": lambda i: encoded(with_alpha(i), "PNG"),
    "png palette": lambda i: encoded(i.convert("P"), "PNG"),
    "png palette, transparent": lambda i: encoded(i.convert("P"), "PNG", transparency=3),
    "png gray": lambda i: encoded(i.convert("L"), "PNG"),
    "png one bit": lambda i: encoded(i.convert("1"), "PNG"),
    "png 16 bits": lambda i: encoded(sixteen_bits(i), "PNG"),
    "png animated": lambda i: encoded(i, "PNG", save_all=True, append_images=[i.rotate(180)]),
    "gif": lambda i: encoded(i, "GIF"),
    "webp": lambda i: encoded(i, "WEBP"),
    "bmp": lambda i: encoded(i, "BMP"),
    "tiff": lambda i: encoded(i, "TIFF"),
    "tiff 16 bits": lambda i: encoded(sixteen_bits(i), "TIFF"),
    "avif": lambda i: encoded(i, "AVIF"),
    "jpeg 2000": lambda i: encoded(i, "JPEG2000"),
}
# What the exported graph, which has TensorFlow's operations only, decodes.
EXPORTED = [name for name in FORMATS if name.startswith(("jpeg", "png"))]
for other in ("jpeg cmyk", "jpeg 2000"):
    EXPORTED.remove(other)


def batch_reader(paths, config, seen=None):
    """A function that returns the pixels that training and evaluation see in these files.

    It can be called again when the files have changed, without another graph.
    """
    split = Split(np.zeros(len(paths), np.int32), paths=[str(path) for path in paths])
    reader = make_reader(split, config, len(paths), None)

    @tf.function(autograph=False)
    def read(index):
        return reader.decode({"index": index, **reader.look(index)}, seen)

    def pixels():
        images, readable = read(tf.range(len(paths), dtype=tf.int64))
        assert readable.numpy().all()
        return images.numpy()

    return pixels


def read_batch(paths, config, seen=None):
    """The pixels that training and evaluation see."""
    return batch_reader(paths, config, seen)()


def exported_decoder(config):
    arch = ARCHITECTURES["mean"]
    preprocessing = Preprocessing(
        **{
            name: getattr(config, name)
            for name in Preprocessing.model_fields
            if name in vars(config)
        },
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    facts = ExportMetadata(
        classes=("a", "b"), preprocessing=preprocessing, architecture=arch, weights_of_step=1
    )
    return tf.function(
        Classifier(random_model(arch), facts).decode,
        [tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


def test_training_predict_prepared_sets_and_exports_see_the_same_pixels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [(form, size) for form in FORMATS for size in SIZES]
    contents = [FORMATS[form](picture(*size)) for form, size in names]
    paths = []
    for number, content in enumerate(contents):
        paths.append(tmp_path / f"{number}.img")
        paths[-1].write_bytes(content)
    prepared = [encode_image(content, 10**9).content for content in contents]
    for resize, fraction, antialias in (
        ("squash", 1.0, True), ("crop", 0.875, True), ("crop", 1.0, False),
    ):  # fmt: skip
        config = DataConfig(
            source="image_folder", image_size=SIZE, resize=resize, crop_fraction=fraction,
            antialias=antialias,
        )  # fmt: skip
        trained = read_batch(paths, config)
        for name, expected, content, stored in zip(names, trained, contents, prepared, strict=True):
            message = f"{name} {resize} {antialias}"
            alone = load_image(content, "an image", config)
            np.testing.assert_array_equal(alone, expected, err_msg=message)
            again = load_image(stored, "an image", config)
            np.testing.assert_array_equal(again, expected, err_msg=f"prepared, {message}")
        chosen = [number for number, (form, _) in enumerate(names) if form in EXPORTED]
        exported = exported_decoder(config)(tf.constant([contents[i] for i in chosen])).numpy()
        for place, number in enumerate(chosen):
            message = f"exported, {names[number]} {resize} {antialias}"
            np.testing.assert_array_equal(exported[place], trained[number], err_msg=message)


def test_without_resizing_all_see_the_same_pixels_too(tmp_path):
    config = DataConfig(source="image_folder", image_size=SIZE, resize="none")
    contents = {form: write(picture(SIZE, SIZE)) for form, write in FORMATS.items()}
    for number, content in enumerate(contents.values()):
        (tmp_path / f"{number}").write_bytes(content)
    trained = read_batch([tmp_path / f"{i}" for i in range(len(contents))], config)
    exported = exported_decoder(config)
    for expected, (form, content) in zip(trained, contents.items(), strict=True):
        np.testing.assert_array_equal(load_image(content, form, config), expected, err_msg=form)
        if form in EXPORTED:
            (pixels,) = exported(tf.constant([content])).numpy()
            np.testing.assert_array_equal(pixels, expected, err_msg=form)


@pytest.mark.parametrize("form", [*FORMATS])
def test_a_large_image_keeps_its_colors(form):
    image = picture(430, 610)
    config = DataConfig(source="image_folder", image_size=SIZE, resize="squash")
    content = FORMATS[form](image)
    with Image.open(io.BytesIO(content)) as opened:
        shown = opened.convert("L") if "16 bits" in form else opened.convert("RGB")
        if "16 bits" in form:
            shown = Image.fromarray((np.asarray(sixteen_bits(image)) >> 8).astype(np.uint8))
        expected = shown.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    ours = load_image(content, form, config).astype(int)
    # A JPEG is decoded smaller; see test_preprocess.py.
    assert np.abs(ours - np.asarray(expected)).mean() < (3 if form.startswith("jpeg") else 0.6)
