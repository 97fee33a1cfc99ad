"""Prepared sets of pixels: `vit prepare --raw`."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.config import AugmentConfig, DataConfig
from pipeline.data.images import load_example
from pipeline.data.input import train_dataset
from pipeline.data.prepare.verify import verify
from pipeline.data.shard import Shard
from pipeline.data.sources import array_files
from pipeline.data.sources.source import open_source
from pipeline.errors import DataError
from tests.data.prepared import in_this_process, make_folder, prepare_into
from tests.jobs.commands import vit_process


@pytest.fixture(autouse=True)
def without_processes():
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("source") / "images", kind="jpg")


@pytest.fixture
def prepared(folder, tmp_path):
    prepare_into(tmp_path / "out", folder, raw=True)
    return tmp_path / "out"


def open_(out, **settings):
    return open_source(DataConfig(source="records", path=str(out), **settings), 0)


def verified(out):
    return verify(out, 2, lambda count: None)[1]


def test_a_raw_set_holds_the_pixels_that_pillow_decodes(folder, prepared):
    before, after = open_source(folder, 0), open_(prepared)
    assert after.classes == before.classes
    for name, split in before.splits.items():
        again = after.splits[name]
        np.testing.assert_array_equal(again.labels, split.labels)
        expected = [np.asarray(Image.open(path).convert("RGB")) for path in split.paths]
        np.testing.assert_array_equal(again.images, expected)
    facts = json.loads((prepared / "dataset.json").read_text())
    assert facts["converted"] == 0
    assert [shard["examples"] for shard in facts["splits"]["test"]["shards"]] == [3, 3, 3]
    assert not list(prepared.glob("*.arrayrecord"))
    assert verified(prepared) == []


def test_training_gets_the_same_batches_as_from_the_files(folder, prepared):
    augment = AugmentConfig(flip=True, resized_crop_min_area=0.3)
    settings = {"global_batch_size": 4, "image_size": 8, "resize": "crop", "augment": augment}
    batches = []
    for config in (folder, DataConfig(source="records", path=str(prepared))):
        config = config.model_copy(update=settings)
        source = open_source(config, 0)
        dataset = train_dataset(
            source.splits["train"], config, num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3,
            seed=1, start_step=0, shard=Shard(),
        )  # fmt: skip
        batches.append([next(iter(dataset.skip(step))) for step in (0, 5)])
    for one, other in zip(*batches, strict=True):
        for name in ("image", "target", "index"):
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_one_image_is_loaded_as_from_its_file(folder, prepared, resize):
    settings = {"image_size": 8, "resize": resize}
    config = folder.model_copy(update=settings)
    files, raw = open_source(folder, 0).splits["train"], open_(prepared).splits["train"]
    for index in (0, 7):
        expected = load_example(files, index, config)
        np.testing.assert_array_equal(load_example(raw, index, config), expected)


@pytest.mark.processes
def test_the_preview_of_a_raw_set_is_drawn(prepared, tmp_path):
    file = tmp_path / "preview.png"
    settings = ("data.image_size=8", "model.patch_size=4", "data.resize=squash")
    done = vit_process("prepare", prepared, "--preview", file, "--recipe", "digits", *settings)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(file) as image:
        assert image.width > 100


@pytest.mark.parametrize("shard_size", [4, 1])
def test_images_of_two_sizes_are_refused(tmp_path, shard_size):
    source = make_folder(tmp_path / "images")
    Image.new("RGB", (5, 7)).save(tmp_path / "images" / "train" / "dog" / "000.png")
    with pytest.raises(DataError, match=r"5 x 7 pixels.*12 x 9|12 x 9 pixels.*5 x 7") as raised:
        prepare_into(tmp_path / "out", source, shard_size, raw=True)
    assert "Leave out --raw" in str(raised.value)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_unreadable_images_are_left_out_when_asked(tmp_path):
    source = make_folder(tmp_path / "images")
    bad = tmp_path / "images" / "train" / "dog" / "000.png"
    bad.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1 image cannot be read"):
        prepare_into(tmp_path / "out", source, raw=True)
    skipping = source.model_copy(update={"on_bad_image": "skip"})
    facts = prepare_into(tmp_path / "out", skipping, raw=True)
    assert facts.unreadable == 1
    splits = open_(tmp_path / "out").splits
    assert sum(split.num_examples for split in splits.values()) == 3 * 9 - 1


def test_finished_shards_are_kept_and_another_form_is_another_set(tmp_path, folder, monkeypatch):
    from pipeline.data.prepare import prepare as module

    out, write, written = tmp_path / "out", module.write_shard, []

    def stopping(task):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(task.file.name)
        return write(task)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare_into(out, folder, raw=True)
    kept = {name: (out / name).stat().st_ino for name in written}
    prepare_into(out, folder, raw=True)
    assert {name: (out / name).stat().st_ino for name in written} == kept
    with pytest.raises(DataError, match="--quality or --raw"):
        prepare_into(out, folder)


def test_shards_of_an_unfinished_raw_set_are_removed_for_another_form(tmp_path, folder):
    out = tmp_path / "out"
    bad = tmp_path / "bad" / "images"
    source = make_folder(bad, kind="jpg")
    (bad / "train" / "dog" / "000.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError):
        prepare_into(out, source, raw=True)
    assert list(out.glob("train-*.npy"))
    prepare_into(out, source.model_copy(update={"on_bad_image": "skip"}))
    assert not list(out.glob("train-*.npy"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "its checksum is wrong"),
        (lambda content: content[:-1], "must have .* bytes, but has"),
    ],
)
def test_an_altered_file_is_named_at_the_start_and_by_verify(prepared, change, message):
    (file,) = prepared.glob("train-00001-of-*.npy")
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=f"{file.name}.*{message}"):
        open_(prepared)
    (problem,) = verified(prepared)
    assert file.name in problem


@pytest.mark.parametrize("largest", [[2**40, 2**40], [-1, 9], [12, 9]])
def test_a_size_that_the_images_do_not_have_is_refused(prepared, largest):
    path = prepared / "dataset.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"largest": largest}))
    with pytest.raises(DataError, match=rf"images of {largest[1]} x {largest[0]} pixels. Received"):
        open_(prepared)


def test_too_little_memory_is_one_message(prepared, monkeypatch):
    def without_memory(content):
        raise MemoryError

    # Labels are read in the same way; pixels are larger.
    read = array_files.read_npy
    monkeypatch.setattr(
        array_files, "read_npy", lambda c: without_memory(c) if len(c) > 1000 else read(c)
    )
    with pytest.raises(DataError, match=r"too little memory for its pixels.*without --raw"):
        open_(prepared)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 9, 12, 3), np.float32), np.zeros((4, 9, 12), np.uint8), np.array([None])],
    ids=["float", "gray", "object"],
)
def test_other_arrays_are_refused(prepared, array):
    (file,) = prepared.glob("train-00001-of-*.npy")
    np.save(file, array, allow_pickle=True)
    path = prepared / "dataset.json"
    facts = json.loads(path.read_text())
    (shard,) = [s for s in facts["splits"]["train"]["shards"] if s["file"] == file.name]
    shard["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    shard["size"] = file.stat().st_size
    path.write_text(json.dumps(facts))
    with pytest.raises(DataError, match=file.name):
        open_(prepared)
