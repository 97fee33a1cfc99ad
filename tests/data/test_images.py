"""Files that are images, of every kind, and files that are not."""

import os
import re
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.duplicates import Duplicates, find_duplicates
from pipeline.data.images import bad_images_named, load_example
from pipeline.data.prepare.shard_file import ShardTask, write_shard
from pipeline.data.reader import make_reader
from pipeline.data.split import DataSource, Split
from pipeline.errors import DataError
from pipeline.storage.limits import image_bytes
from pipeline.storage.read import real_folder

Y, X = np.mgrid[:24, :32]
COLOR = np.stack([Y * 10, X * 7, (X + Y) * 4], -1).astype(np.uint8)
GRAY = COLOR[..., 1]


def rgb(gray):
    return np.repeat(gray[..., None], 3, -1)


def write(folder, name):
    """Writes an image of the kind; returns its path and the pixels it should have."""
    image, gray = Image.fromarray(COLOR), Image.fromarray(GRAY)
    palette = image.convert("P")
    path = folder / name
    kinds = {
        "color.png": (image, COLOR, {}),
        "gray.png": (gray, rgb(GRAY), {}),
        "alpha.png": (image.convert("RGBA"), COLOR, {}),
        "palette.png": (palette, np.asarray(palette.convert("RGB")), {}),
        "bits.png": (gray.convert("1"), rgb(np.asarray(gray.convert("1")) * np.uint8(255)), {}),
        "sixteen.png": (Image.fromarray(GRAY.astype(np.uint16) * 257), rgb(GRAY), {}),
        "color.bmp": (image, COLOR, {}),
        "palette.bmp": (palette, np.asarray(palette.convert("RGB")), {}),
        "animated.gif": (
            palette, np.asarray(palette.convert("RGB")),
            {"save_all": True, "append_images": [Image.new("P", (32, 24))]},
        ),
        "color.jpg": (image, COLOR, {"quality": 98, "subsampling": 0}),
        "gray.jpeg": (gray, rgb(GRAY), {"quality": 98}),
        "cmyk.jpg": (image.convert("CMYK"), COLOR, {"quality": 98}),
        "tiff.png": (image, COLOR, {"format": "TIFF"}),
    }  # fmt: skip
    picture, pixels, settings = kinds[name]
    picture.save(path, **settings)
    return str(path), pixels


GOOD = (
    "color.png", "gray.png", "alpha.png", "palette.png", "bits.png", "sixteen.png", "color.bmp",
    "palette.bmp", "animated.gif", "color.jpg", "gray.jpeg", "cmyk.jpg", "tiff.png",
)  # fmt: skip
# name -> reason in the message
BAD = {
    "empty.jpg": "empty",
    "text.jpg": "not an image in a supported format",
    "truncated.jpg": "[Tt]runcated",
    "truncated.png": "[Tt]runcated",
    "missing.jpg": "No such file",
    "header.jpg": "truncated",
}


def write_bad(folder, name):
    path = folder / name
    if name == "empty.jpg":
        path.write_bytes(b"")
    elif name == "text.jpg":
        path.write_text("this is not an image, whatever its name says")
    elif name == "header.jpg":
        path.write_bytes(b"\xff\xd8\xff\xe0")
    elif name.startswith("truncated"):
        whole = folder / f"whole{path.suffix}"
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(whole)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return str(path)


def files(paths):
    return Split(np.zeros(len(paths), np.int32), paths=paths)


def load_image(path, config):
    return load_example(files([path]), 0, config)


def read(paths, skipped=None, **settings):
    config = DataConfig(source="image_folder", **{"image_size": 16, **settings})
    return read_split(files(paths), config, skipped)


def read_split(split, config, skipped=None):
    reader = make_reader(split, config, split.num_examples, skipped)

    @tf.function(autograph=False)
    def graph(index):
        return reader.decode({"index": index, **reader.look(index)}, None)

    images, readable = graph(tf.range(split.num_examples, dtype=tf.int64))
    return images.numpy(), readable.numpy()


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_image_becomes_its_colors(tmp_path, name):
    path, pixels = write(tmp_path, name)
    config = DataConfig(source="image_folder", image_size=24, resize="crop")
    center = load_image(path, config)
    tolerance = 6 if name.endswith(("jpg", "jpeg")) else 0
    assert np.abs(center.astype(int) - pixels[:, 4:28]).max() <= tolerance
    assert center.shape == (24, 24, 3)
    assert center.dtype == np.uint8


def test_a_batch_of_all_kinds_holds_what_each_file_alone_holds(tmp_path):
    paths = [write(tmp_path, name)[0] for name in GOOD]
    for mode in ("squash", "crop"):
        images, readable = read(paths, resize=mode)
        assert readable.all()
        config = DataConfig(source="image_folder", image_size=16, resize=mode)
        for path, image in zip(paths, images, strict=True):
            np.testing.assert_array_equal(image, load_image(path, config), err_msg=path)


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_image_is_named_with_the_reason(tmp_path, name):
    paths = [write(tmp_path, "color.jpg")[0], write_bad(tmp_path, name)]
    with pytest.raises(DataError) as raised, bad_images_named():
        read(paths)
    config = DataConfig(source="image_folder")
    with pytest.raises(DataError, match=rf"{name}: .*{BAD[name]}.*on_bad_image=skip") as alone:
        load_image(paths[1], config)
    assert str(raised.value) == str(alone.value)


def test_files_that_are_no_images_are_skipped_and_listed_once(tmp_path):
    good, bad = write(tmp_path, "color.png")[0], [write_bad(tmp_path, name) for name in BAD]
    paths = [bad[0], good, *bad[1:], good]
    skipped = SkippedImages()
    for _ in range(2):
        images, readable = read(paths, skipped, on_bad_image="skip")
    assert readable.tolist() == [path == good for path in paths]
    assert skipped.count == len(BAD)
    assert skipped.paths == tuple(sorted(bad))
    assert (images[~readable] == 0).all()
    assert (images[1] == images[-1]).all()
    assert images[1].any()
    assert "empty" in skipped.reasons[bad[0]]


def test_a_batch_without_a_single_image_can_be_skipped(tmp_path):
    paths = [write_bad(tmp_path, name) for name in BAD]
    images, readable = read(paths, on_bad_image="skip", resize="none")
    assert not readable.any()
    assert images.shape == (len(BAD), 16, 16, 3)


@pytest.mark.parametrize("name", ["color.png", "tiff.png"])
@pytest.mark.parametrize("on_bad_image", ["raise", "skip"])
def test_another_size_without_resizing_is_named(tmp_path, on_bad_image, name):
    path, _ = write(tmp_path, name)
    settings = {"image_size": 24, "resize": "none", "on_bad_image": on_bad_image}
    message = rf"{name} has 32 x 24 pixels.*data\.image_size=24.*data\.resize=squash"
    with pytest.raises(DataError, match=message), bad_images_named():
        read([path], **settings)
    with pytest.raises(DataError, match=message):
        load_image(path, DataConfig(source="image_folder", **settings))


def test_the_right_size_needs_no_resizing(tmp_path):
    Image.fromarray(COLOR[:, :24]).save(tmp_path / "a.png")
    images, _ = read([str(tmp_path / "a.png")], image_size=24, resize="none")
    np.testing.assert_array_equal(images[0], COLOR[:, :24])


def test_other_errors_are_not_taken_for_bad_images():
    with pytest.raises(ValueError, match="<<something>>"), bad_images_named():
        raise ValueError("<<something>>")


def test_skipped_images_can_be_added_from_many_threads():
    skipped = SkippedImages()

    def add():
        for i in range(500):
            skipped.add(str(i), "no image")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert skipped.count == 500


def put_fifo(path, elsewhere):
    os.mkfifo(path)


def put_device(path, elsewhere):
    path.symlink_to("/dev/zero")


def put_link(path, elsewhere):
    path.symlink_to(elsewhere)


def put_sparse(path, elsewhere):
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(2**40)


# What lies under an image's name -> reason in the message.
PLACED = {
    put_fifo: "a FIFO, not a regular file",
    put_device: "a device, not a regular file",
    put_link: r"outside .*: it is .*secret\.png; data\.links_out=true allows",
    put_sparse: r"its 1,099,511,627,776 bytes are more than 867,108,864",
}


@pytest.mark.parametrize("put", PLACED)
def test_only_regular_files_of_the_folder_are_read_and_others_are_not_waited_for(tmp_path, put):
    write(tmp_path, "color.png")
    (tmp_path / "secret.png").write_bytes((tmp_path / "color.png").read_bytes())
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "color.png").rename(photos / "color.png")
    put(photos / "placed.png", tmp_path / "secret.png")
    split = Split(
        np.zeros(2, np.int32),
        paths=[str(photos / "color.png"), str(photos / "placed.png")],
        root=real_folder(photos),
        limit_bytes=image_bytes(DataConfig().max_pixels),
    )
    config = DataConfig(source="image_folder", image_size=16)
    message = rf"placed\.png: {PLACED[put]}"
    with pytest.raises(DataError, match=message):
        load_example(split, 1, config)  # doctor, normalization
    with pytest.raises(DataError, match=message), bad_images_named():
        read_split(split, config)  # train, evaluate
    skipped = SkippedImages()
    _, readable = read_split(split, config.model_copy(update={"on_bad_image": "skip"}), skipped)
    assert readable.tolist() == [True, False]
    (reason,) = skipped.reasons.values()
    assert re.match(PLACED[put], reason)
    # The name alone would be enough for a file that is equal in size and content.
    sources = DataSource(("a", "b"), {"train": split})
    assert find_duplicates(sources) == Duplicates(compared=2, total=2)
    task = ShardTask("train", 0, tmp_path / "a.arrayrecord", tmp_path, split, config.max_pixels)
    assert list(write_shard(task).unreadable.values()) == [reason]  # prepare
