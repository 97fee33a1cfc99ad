"""Damage in a JPEG is found wherever it is, in the first epoch, and the same in every epoch."""

import itertools

import numpy as np
import pytest
import simplejpeg
import tensorflow as tf

from pipeline.config import AugmentConfig, DataConfig
from pipeline.data import images
from pipeline.data.decode import damage, header, jpeg
from pipeline.data.decode.integrity import check_jpeg, check_png
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.encode import encode_image, read_whole_image
from pipeline.data.images import bad_images_named, load_image
from pipeline.data.input import eval_dataset, train_dataset
from pipeline.data.shard import Shard
from pipeline.data.split import Split
from pipeline.errors import DataError
from tests.data.decode.test_decoders import encoded, picture

WHOLE = encoded(picture(160, 160), "JPEG", quality=90)
PLACE = len(WHOLE) * 7 // 8
APP0_END = 20  # the first two bytes, and a segment of 18
FILLING = np.random.default_rng(0).integers(0, 255, 60).astype(np.uint8).tobytes()

DAMAGED = {
    "without its end": WHOLE[:-2],
    "without its last byte": WHOLE[:-1],
    "half": WHOLE[: len(WHOLE) // 2],
    "zeros in place of its end": WHOLE[:-2] + bytes(40),
    "an unknown marker": WHOLE[:PLACE] + b"\xff\x3b" + FILLING + WHOLE[PLACE + 62 :],
    "overwritten by ones": WHOLE[:PLACE] + b"\xff" * 40 + WHOLE[PLACE + 40 :],
    "zeros before its frame header": WHOLE[:APP0_END] + bytes(3000) + WHOLE[APP0_END:],
    "zeros after its first segment": WHOLE[:APP0_END] + bytes(3000),
}
REPAIRED = {
    "zeros inside": WHOLE[:PLACE] + bytes(40) + WHOLE[PLACE + 40 :],
    "an early end": WHOLE[:PLACE] + b"\xff\xd9" + WHOLE[PLACE + 2 :],
    "more data than pixels": WHOLE[:-2] + b"junk" * 5 + WHOLE[-2:],
    "some zeros before its frame header": WHOLE[:APP0_END] + bytes(200) + WHOLE[APP0_END:],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_by_all_who_read_an_image(name):
    with pytest.raises(UnreadableError):
        check_jpeg(DAMAGED[name], 10**8)
    with pytest.raises(UnreadableError):
        encode_image(DAMAGED[name], 10**6)
    with pytest.raises(DataError, match="cannot read the image a photo"):
        load_image(DAMAGED[name], "a photo", DataConfig(image_size=16))


@pytest.mark.parametrize("name", REPAIRED)
def test_what_libjpeg_repairs_is_used_and_named(name):
    assert check_jpeg(REPAIRED[name], 10**8).startswith("Corrupt JPEG data")
    assert not encode_image(REPAIRED[name], 10**6).converted
    told = []
    load_image(REPAIRED[name], "a photo", DataConfig(image_size=16), told.append)
    assert len(told) == 1


def test_a_whole_jpeg_needs_no_repair_whatever_its_kind():
    image = picture(33, 47)
    kinds = [{"subsampling": s, "progressive": p} for s in (0, 1, 2) for p in (False, True)]
    for settings in kinds:
        assert check_jpeg(encoded(image, "JPEG", **settings), 10**8) is None
    assert check_jpeg(encoded(image.convert("L"), "JPEG"), 10**8) is None
    assert check_jpeg(WHOLE + b"bytes after the end", 10**8) is None
    assert check_jpeg(encoded(image, "PNG"), 10**8) is None
    comments = b"\xff\xfe\0\4ab" * 500
    assert check_jpeg(WHOLE[:APP0_END] + comments + WHOLE[APP0_END:], 10**8) is None


def with_wrong_checksum(png, kind):
    """A PNG whose first chunk of a kind has a checksum that is off by one bit."""
    place = png.index(kind)
    end = place + 4 + int.from_bytes(png[place - 4 : place])
    return png[:end] + bytes([png[end] ^ 1]) + png[end + 1 :]


PNG = encoded(picture(40, 50), "PNG", dpi=(72, 72))
DAMAGED_PNGS = {
    "without IEND": PNG[:-12],
    "without its last byte": PNG[:-1],
    **{f"wrong checksum of {k}": with_wrong_checksum(PNG, k) for k in (b"IHDR", b"IDAT", b"IEND")},
}


@pytest.mark.parametrize("name", DAMAGED_PNGS)
def test_a_png_that_training_refuses_is_refused_when_it_is_prepared(name):
    with pytest.raises(DataError, match="cannot read the image a photo"):
        load_image(DAMAGED_PNGS[name], "a photo", DataConfig(image_size=16))
    with pytest.raises(UnreadableError):
        encode_image(DAMAGED_PNGS[name], 10**6)
    with pytest.raises(UnreadableError):
        read_whole_image(DAMAGED_PNGS[name], 10**6)  # as `vit prepare --verify` does


def test_training_accepts_a_wrong_checksum_of_a_chunk_that_is_not_critical():
    content = with_wrong_checksum(PNG, b"pHYs")
    check_png(content)
    load_image(content, "a photo", DataConfig(image_size=16))


@pytest.mark.parametrize(
    ("start", "read"), [(WHOLE[:APP0_END], "_read_segment"), (PNG[:33], "_read_chunk")]
)
def test_a_header_followed_by_zeros_takes_few_steps(start, read, monkeypatch):
    steps, real = [], getattr(header, read)

    def count(contents, walk):
        steps.append(walk)
        return real(contents, walk)

    monkeypatch.setattr(header, read, count)
    # Eagerly, so that each step of the loop is a call.
    found = header.read_headers.python_function(tf.constant([start + bytes(20_000), WHOLE]))
    assert len(steps) < 300
    assert found.by_tensorflow.numpy().tolist() == [True, True]
    np.testing.assert_array_equal(found.sizes[1], [160, 160])
    if read == "_read_segment":
        np.testing.assert_array_equal(found.sizes[0], [0, 0])


def test_the_search_for_the_reason_runs_on_the_cpu(monkeypatch):
    from tensorflow.python.eager import context

    devices = []

    def read(contents):
        devices.append(context.context().device_name)
        return header.read_headers(contents)

    monkeypatch.setattr(images, "read_headers", read)
    with pytest.raises(UnreadableError):
        images._explain(DAMAGED["half"], "a photo", DataConfig(image_size=16))
    assert len(devices) == 1
    assert devices[0].endswith("CPU:0")


@pytest.fixture
def split(tmp_path):
    """16 images. Number 5 is damaged near its lower edge, number 6 was repaired."""
    paths = []
    for i in range(16):
        content = encoded(picture(160, 160 + i), "JPEG", quality=90)
        paths.append(tmp_path / f"{i}.jpg")
        paths[-1].write_bytes({5: DAMAGED["an unknown marker"]}.get(i, content))
    paths[6].write_bytes(REPAIRED["zeros inside"])
    return Split(np.zeros(16, np.int32), paths=[str(path) for path in paths])


def config_of(**settings):
    augment = AugmentConfig(resized_crop_min_area=0.05)
    return DataConfig(
        source="image_folder", image_size=16, global_batch_size=4, augment=augment, **settings
    )


def train(split, config, skipped=None, start_step=0, shard=None):
    dataset = train_dataset(
        split, config, num_classes=2, mean=(0.5,) * 3, std=(0.5,) * 3, seed=0,
        start_step=start_step, shard=shard or Shard(), skipped=skipped,
    )  # fmt: skip
    return iter(dataset)


def test_training_with_random_crops_ends_in_the_first_epoch(split):
    batches = train(split, config_of())
    with pytest.raises(DataError, match=r"/5\.jpg: .*on_bad_image=skip"), bad_images_named():
        list(itertools.islice(batches, 4))


def left_out(split, epochs, start_step=0, shards=1):
    """The images that weigh nothing, by epoch, over all shards."""
    config, count = config_of(on_bad_image="skip"), 4 * epochs
    found = [set() for _ in range(epochs)]
    for index in range(shards):
        skipped = SkippedImages()
        batches = train(split, config, skipped, start_step, Shard(index, shards))
        for number in range(count):
            batch = next(batches)
            out = batch["index"].numpy()[batch["weight"].numpy() == 0]
            found[number // 4] |= set(out.tolist())
        assert set(skipped.paths) <= {split.paths[5]}
    return found


def test_the_same_images_are_left_out_in_every_epoch_by_any_number_of_processes(split):
    assert left_out(split, 6) == [{5}] * 6
    assert left_out(split, 6, shards=2) == [{5}] * 6
    assert left_out(split, 3, start_step=16) == [{5}] * 3  # resumed after four epochs


def test_evaluation_leaves_them_out_though_it_sees_the_center_only(split):
    config = config_of(on_bad_image="skip", resize="crop", crop_fraction=0.3)
    skipped = SkippedImages()
    for _ in range(2):
        dataset = eval_dataset(
            split, config, mean=(0.5,) * 3, std=(0.5,) * 3, shard=Shard(), skipped=skipped
        )
        seen = np.concatenate([b["weight"].numpy() for b in dataset])
        assert np.flatnonzero(seen == 0).tolist() == [5]
    assert skipped.paths == (split.paths[5],)
    assert list(skipped.repaired) == [split.paths[6]]


def test_images_with_too_many_pixels_are_not_decoded_to_look_for_damage(split, monkeypatch):
    decoded, decode = [], simplejpeg.decode_jpeg

    def record(content, *arguments, **options):
        decoded.append(content)
        return decode(content, *arguments, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", record)
    skipped = SkippedImages()
    batches = train(split, config_of(on_bad_image="skip", max_pixels=160 * 170), skipped)
    for _ in range(4):
        next(batches)
    allowed = [tf.io.read_file(path).numpy() for path in split.paths[:11]]
    assert set(decoded) == set(allowed)
    assert set(split.paths[11:]) <= set(skipped.paths)
    assert "160 pixels, more than data.max_pixels" in skipped.reasons[split.paths[11]]


def test_each_image_is_examined_once(split, monkeypatch):
    costs, examined = [], []

    def count_costs(content, max_pixels):
        costs.append(content)

    def count(content, max_pixels):
        examined.append(content)
        return check_jpeg(content, max_pixels)

    monkeypatch.setattr(jpeg, "check_cost", count_costs)
    monkeypatch.setattr(damage, "check_jpeg", count)
    skipped = SkippedImages()
    # One thread: batches that are read at the same time may both meet an image for the first time.
    batches = train(split, config_of(on_bad_image="skip", threads=1), skipped)
    for _ in range(16):
        next(batches)
    contents = [tf.io.read_file(path).numpy() for path in split.paths]
    assert sorted(costs) == sorted(contents)
    # simplejpeg has decoded the others without a warning, so they are whole.
    assert sorted(examined) == sorted(contents[5:7])
