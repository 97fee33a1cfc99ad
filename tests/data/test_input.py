"""The whole graph: the same bytes however it is divided, and every example once."""

import time
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.config import AugmentConfig, DataConfig
from pipeline.cores import available_cores
from pipeline.data.images import SkippedImages, bad_images_named
from pipeline.data.input import batches_ahead, eval_dataset, train_dataset
from pipeline.data.order import positions_to_examples
from pipeline.data.prepare.prepare import prepare
from pipeline.data.shard import Shard, first_piece
from pipeline.data.sources.source import open_source
from pipeline.data.split import DataSource, Split
from pipeline.errors import DataError, SettingsError
from tests.data.prepared import in_this_process, write_tfrecord

RNG = np.random.default_rng(0)
NUM = 30
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
AUGMENT = AugmentConfig(flip=True, crop_padding=2, rotation=0.05, zoom=0.2)
CONFIG = DataConfig(global_batch_size=12, image_size=10, augment=AUGMENT, label_smoothing=0.1)
LABELS = (np.arange(NUM) % 3).astype(np.int32)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """The same examples in memory, as files, as a prepared set, and as TFRecords."""
    folder = tmp_path_factory.mktemp("images")
    images = RNG.integers(0, 256, (NUM, 8, 8, 3), np.uint8)
    paths = [str(folder / f"bild ä {i}.png") for i in range(NUM)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    files = Split(LABELS, paths=paths)
    with in_this_process():
        prepare(
            DataSource(("a", "b", "c"), {"train": files}), folder / "prepared", DataConfig(),
            shard_size=7, processes=1, on_done=lambda count: None,
        )  # fmt: skip
    contents = [files.content(i) for i in range(NUM)]
    for i, part in enumerate((slice(0, 11), slice(11, None))):
        path = folder / "tf" / f"train-{i:05d}-of-00002"
        write_tfrecord(path, contents[part], LABELS[part])
    write_tfrecord(folder / "tf" / "val.tfrecord", contents, LABELS)
    opened = {
        kind: open_source(DataConfig(source=kind, path=str(folder / name)), 0).splits["train"]
        for kind, name in (("records", "prepared"), ("tfrecord", "tf"))
    }
    return {"arrays": Split(LABELS, images), "files": files, **opened}


# Order, division, augmentation and mixing know only indices. How examples are kept matters to what
# reads them, and the graph of files or records takes ten times as long to build as that of arrays:
# what does not concern reading is tested with arrays alone. Shards share `stages`, as the datasets
# of a process do.
@pytest.fixture(scope="module")
def split(forms):
    return forms["arrays"]


def train(split, config=CONFIG, start_step=0, shard=None, seed=0, **settings):
    return train_dataset(
        split, config, num_classes=3, mean=MEAN, std=STD, seed=seed, start_step=start_step,
        shard=shard or Shard(), **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def batches(split):
    """Ten undivided batches, of 120 positions: 4 epochs of 30. Not to be changed."""
    return take(train(split), 10)


def take(dataset, num):
    return list(dataset.take(num).as_numpy_iterator())


def joined(parts):
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].tobytes() == other[key].tobytes(), key


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_elements_have_static_shapes_and_the_types_promised(forms, kind):
    split = forms[kind]
    spec = train(split, shard=Shard(1, 2, 3)).element_spec
    assert spec == {
        "image": tf.TensorSpec([2, 10, 10, 3], tf.float32),
        "target": tf.TensorSpec([2, 3], tf.float32),
        "weight": tf.TensorSpec([2], tf.float32),
        "index": tf.TensorSpec([2], tf.int64),
    }
    spec = eval_dataset(split, CONFIG, mean=MEAN, std=STD, shard=Shard(0, 5)).element_spec
    assert spec == {
        "image": tf.TensorSpec([3, 10, 10, 3], tf.float32),
        "label": tf.TensorSpec([3], tf.int32),
        "weight": tf.TensorSpec([3], tf.float32),
        "index": tf.TensorSpec([3], tf.int64),
    }


@pytest.mark.parametrize(
    ("kind", "count", "splits"),
    [
        *(("arrays", *division) for division in ((3, 1), (4, 1), (1, 2), (1, 3), (2, 2))),
        ("files", 1, 2),
        ("records", 1, 2),
        ("tfrecord", 1, 2),
    ],
)
def test_any_division_gives_the_same_bytes(forms, batches, kind, count, splits):
    steps, stages = 3, {}
    shards = [
        take(train(forms[kind], shard=Shard(i, count, splits), stages=stages), steps * splits)
        for i in range(count)
    ]
    for step in range(steps):
        pieces = [part for s in shards for part in s[step * splits : (step + 1) * splits]]
        assert_same(joined(pieces), batches[step])


# Without crops, the divisions above compare them.
def test_memory_files_and_records_train_the_same_bytes_with_random_crops(forms):
    augment = AUGMENT.model_copy(update={"resized_crop_min_area": 0.2})
    config = CONFIG.model_copy(update={"augment": augment})
    expected = take(train(forms["arrays"], config), 4)
    for kind in ("files", "records", "tfrecord"):
        for one, other in zip(expected, take(train(forms[kind], config), 4), strict=True):
            assert_same(one, other)


def test_memory_files_and_records_are_evaluated_with_the_same_bytes(forms):
    expected, *others = (
        take(eval_dataset(split, CONFIG, mean=MEAN, std=STD, shard=Shard()), 3)
        for split in forms.values()
    )
    assert len(others) == 3
    for evaluated in others:
        for one, other in zip(expected, evaluated, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize(("kind", "count"), [("arrays", 2), ("files", 1)])
def test_random_crops_are_the_same_on_any_division_and_number_of_threads(forms, kind, count):
    augment = AUGMENT.model_copy(update={"resized_crop_min_area": 0.1})
    config = CONFIG.model_copy(update={"augment": augment})
    whole = take(train(forms["arrays"], config), 3)
    one_thread, stages = config.model_copy(update={"threads": 1}), {}
    parts = [
        take(train(forms[kind], one_thread, shard=Shard(i, count, 3), stages=stages), 9)
        for i in range(count)
    ]
    for step, expected in enumerate(whole):
        pieces = [parts[i][step * 3 + piece] for i in range(count) for piece in range(3)]
        assert_same(expected, joined(pieces))
    plain = take(train(forms["arrays"]), 1)[0]
    assert (whole[0]["image"] != plain["image"]).mean() > 0.5


EVERYTHING = AUGMENT.model_copy(
    update={
        "rand_augment_layers": 2,
        "three_augment": True,
        "color_jitter": 0.3,
        "erasing": 0.5,
    }
)
MIXED = CONFIG.model_copy(update={"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "augment": EVERYTHING})


@pytest.fixture(scope="module")
def mixed(split):
    """The first undivided batch with everything that augments it. Not to be changed."""
    return take(train(split, MIXED), 1)[0]


@pytest.mark.parametrize(("kind", "count", "splits"), [("arrays", 2, 3), ("files", 1, 2)])
def test_any_division_mixes_the_same_pairs(forms, mixed, kind, count, splits):
    stages = {}
    shards = [
        take(train(forms[kind], MIXED, shard=Shard(i, count, splits), stages=stages), splits)
        for i in range(count)
    ]
    assert_same(joined([part for shard in shards for part in shard]), mixed)


def test_pairs_keep_their_sum(split, mixed):
    (plain,) = take(train(split, CONFIG.model_copy(update={"augment": EVERYTHING})), 1)
    # What is kept is the same for both of a pair, so its sum is as without mixing.
    pairs, unmixed = (batch["image"].reshape(6, 2, 10, 10, 3) for batch in (mixed, plain))
    np.testing.assert_allclose(pairs.sum(1), unmixed.sum(1), atol=1e-5)
    assert (np.abs(pairs - unmixed).max((1, 2, 3, 4)) > 0.1).sum() >= 3
    np.testing.assert_array_equal(mixed["index"], plain["index"])


def test_pairs_that_a_replica_does_not_hold_are_refused(split):
    config = CONFIG.model_copy(update={"mixup_alpha": 0.8})
    with pytest.raises(SettingsError, match=r"of a replica, 3, .*global_batch_size to 8 or 16"):
        train(split, config, shard=Shard(0, 4))


@pytest.mark.parametrize("splits", [1, 2])
def test_starting_later_is_skipping(split, splits):
    shard = Shard(0, 1, splits)
    skipped = take(train(split, shard=shard), 7 * splits)[5 * splits :]
    begun = take(train(split, start_step=5, shard=shard), 2 * splits)
    for one, other in zip(skipped, begun, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize(
    ("kind", "threads"), [("arrays", 1), ("arrays", 4), ("files", 4), ("records", 4)]
)
def test_the_number_of_threads_changes_nothing(forms, batches, kind, threads):
    config = CONFIG.model_copy(update={"threads": threads})
    assert_same(joined(take(train(forms[kind], config), 6)), joined(batches[:6]))


def test_nothing_tunes_while_it_runs_for_whoever_lets_go_would_wait_for_its_next_look(split):
    evaluated = eval_dataset(split, CONFIG, mean=MEAN, std=STD, shard=Shard())
    for dataset in (train(split), evaluated):
        # The race in TensorFlow that makes one wait is rarely lost with a graph as small as this.
        assert dataset.options().autotune.enabled is False


def test_an_epoch_holds_every_example_once_and_batches_run_across_its_end(batches):
    index = joined(batches)["index"]
    for epoch in range(4):
        assert sorted(index[epoch * NUM : (epoch + 1) * NUM]) == list(range(NUM))
    expected = positions_to_examples(tf.range(120, dtype=tf.int64), NUM, 0)[1]
    np.testing.assert_array_equal(index, expected)


def test_images_targets_and_index_belong_together(split):
    config = CONFIG.model_copy(update={"augment": AugmentConfig()})
    evaluated = joined(take(eval_dataset(split, config, mean=MEAN, std=STD, shard=Shard()), 3))
    batch = take(train(split, config), 1)[0]
    for i, index in enumerate(batch["index"]):
        np.testing.assert_array_equal(batch["image"][i], evaluated["image"][index])
        assert batch["target"][i].argmax() == LABELS[index] == evaluated["label"][index]
    np.testing.assert_allclose(batch["target"].max(1), 0.9 + 0.1 / 3, rtol=1e-6)
    assert (batch["weight"] == 1).all()


def test_an_example_looks_different_in_each_epoch_and_with_each_seed(split, batches):
    def of_example_0(some):
        both = joined(some)
        return both["image"][both["index"] == 0]

    first, second = of_example_0(batches[:5])
    assert (first != second).any()
    assert (first != of_example_0(take(train(split, seed=1), 5))[0]).any()


def test_unresized_arrays_are_normalized_exactly():
    images = RNG.integers(0, 256, (NUM, 10, 10, 3), np.uint8)
    config = DataConfig(global_batch_size=NUM, image_size=10)
    dataset = eval_dataset(Split(LABELS, images), config, mean=MEAN, std=STD, shard=Shard())
    (batch,) = take(dataset, 1)
    expected = (images / 255.0 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(batch["image"], expected, atol=2e-6)


@pytest.mark.parametrize(
    ("kind", "count", "splits"),
    [("arrays", 1, 1), ("arrays", 4, 1), ("arrays", 2, 2), ("files", 1, 2), ("records", 1, 2)],
)
def test_evaluation_counts_every_example_once(forms, kind, count, splits):
    part, in_memory = (forms[name].take(np.arange(17), "some") for name in (kind, "arrays"))
    config = CONFIG.model_copy(update={"eval_batch_size": 8})
    given = {"mean": MEAN, "std": STD, "stages": {}}
    shards = [
        list(eval_dataset(part, config, **given, shard=Shard(i, count, splits)).as_numpy_iterator())
        for i in range(count)
    ]
    assert len({len(shard) for shard in shards}) == 1
    everything = joined([element for shard in shards for element in shard])
    counted = everything["index"][everything["weight"] == 1]
    assert sorted(counted) == list(range(17))
    assert set(everything["weight"]) <= {0, 1}
    assert (everything["index"][everything["weight"] == 0] == 0).all()
    np.testing.assert_array_equal(everything["label"], LABELS[everything["index"]])
    whole = joined(take(eval_dataset(in_memory, config, mean=MEAN, std=STD, shard=Shard()), 3))
    order = np.argsort(everything["index"] + NUM * (everything["weight"] == 0), kind="stable")
    assert everything["image"][order[:17]].tobytes() == whole["image"][:17].tobytes()


MICROBATCHES = CONFIG.model_copy(
    update={
        "mixup_alpha": 0.8,
        "augment": AugmentConfig(rand_augment_layers=2, resized_crop_min_area=0.3),
    }
)


@pytest.fixture(scope="module")
def microbatches(split):
    """Two undivided batches of 6 microbatches. Not to be changed."""
    return take(train(split, MICROBATCHES, shard=Shard(microbatches=6)), 2)


@pytest.mark.parametrize(
    ("kind", "count", "splits"), [("arrays", 3, 1), ("arrays", 2, 3), ("files", 1, 4)]
)
def test_microbatches_have_the_same_bytes_on_any_number_of_workers(
    forms, microbatches, kind, count, splits
):
    stages = {}
    for index in range(count):
        shard = Shard(index, count, splits, 6)
        dataset = train(forms[kind], MICROBATCHES, shard=shard, stages=stages)
        elements = take(dataset, 2 * splits)
        for number, element in enumerate(elements):
            step, replica = number // splits, index * splits + number % splits
            first, end = (first_piece(r, 6, shard.replicas) for r in (replica, replica + 1))
            assert element["image"].shape == (shard.turns, 2, 10, 10, 3)
            for name, value in element.items():
                np.testing.assert_array_equal(
                    value[: end - first], microbatches[step][name][first:end]
                )


def test_a_batch_that_cannot_be_divided_names_those_that_can(split):
    with pytest.raises(SettingsError, match=r"global_batch_size=12 .* 5 replicas .* 10 or 15"):
        train(split, shard=Shard(0, 5))
    with pytest.raises(SettingsError, match=r"Set it to 20$"):
        train(split, shard=Shard(0, 10, 2))


def test_arrays_of_another_size_need_a_resize():
    split = Split(LABELS, np.zeros((NUM, 8, 8, 3), np.uint8), title="digits, train")
    with pytest.raises(SettingsError, match=r"digits, train .* 8 x 8 .*data\.image_size=10"):
        train(split, CONFIG.model_copy(update={"resize": "none"}))


def test_a_label_out_of_range_is_refused(split):
    wrong = replace(split, labels=LABELS + 1, title="mine")
    with pytest.raises(DataError, match="mine: the label of example 2"):
        train(wrong)


@pytest.fixture
def damaged(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(NUM)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (i, i, i)).save(path)
    for i in (3, 20):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    return Split(LABELS, paths=paths)


def test_a_bad_image_ends_training_with_its_name(damaged):
    with pytest.raises(DataError, match=r"/(3|20)\.png: "), bad_images_named():
        take(train(damaged), 3)


def test_nothing_is_mixed_in_from_a_skipped_image(damaged):
    config = CONFIG.model_copy(update={"on_bad_image": "skip", "mixup_alpha": 3.0})
    unmixed = CONFIG.model_copy(update={"on_bad_image": "skip"})
    ours, plain = (joined(take(train(damaged, c), 3)) for c in (config, unmixed))
    partner = np.arange(36) ^ 1
    alone = ours["weight"][partner] == 0
    assert alone.any()
    np.testing.assert_allclose(ours["image"][alone], plain["image"][alone], atol=1e-6)
    np.testing.assert_allclose(ours["target"][alone], plain["target"][alone], atol=1e-6)


def test_skipped_images_weigh_nothing_and_are_counted_once(damaged):
    config = CONFIG.model_copy(update={"on_bad_image": "skip"})
    skipped = SkippedImages()
    batch = joined(take(train(damaged, config, skipped=skipped), 5))  # two epochs
    np.testing.assert_array_equal(batch["weight"] == 0, np.isin(batch["index"], (3, 20)))
    assert skipped.paths == tuple(sorted(damaged.paths[i] for i in (3, 20)))
    evaluated = SkippedImages()
    dataset = eval_dataset(damaged, config, mean=MEAN, std=STD, shard=Shard(), skipped=evaluated)
    whole = joined(list(dataset.as_numpy_iterator()))
    assert whole["weight"].sum() == NUM - 2
    assert evaluated.count == 2
    assert whole["weight"][[3, 20]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("batch_size", "image_size", "replicas", "ahead"),
    [
        (128, 32, 1, 8),  # 1.5 MiB a batch: the most
        (32, 224, 1, 6),  # 18.4 MiB
        (32, 224, 2, 3),  # the replicas share the memory
        (256, 224, 1, 2),  # 147 MiB: the least
    ],
)
def test_as_many_batches_are_kept_ready_as_fit_into_128_mib(
    batch_size, image_size, replicas, ahead
):
    assert batches_ahead(batch_size, image_size, replicas) == ahead


def test_a_dataset_that_nobody_reads_from_stops_reading_files(forms, monkeypatch):
    read, contents = [], Split.contents

    def counted(split, *arguments):
        read.append(split)
        return contents(split, *arguments)

    monkeypatch.setattr(Split, "contents", counted)
    iterator = iter(train(forms["files"]))
    next(iterator)
    # Finished batches, and those in work in the stages before.
    most = 1 + batches_ahead(12, 10, 1) + 2 + 2 + available_cores()
    deadline_s = time.monotonic() + 20
    while len(read) < 1 + batches_ahead(12, 10, 1) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    time.sleep(0.5)
    assert batches_ahead(12, 10, 1) < len(read) <= most
