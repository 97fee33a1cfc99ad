"""Small data sets on disk for tests, in all forms that are read by index."""

from contextlib import contextmanager
from unittest import mock

import numpy as np
import tensorflow as tf
from PIL import Image

from pipeline.config import DataConfig
from pipeline.data.prepare import prepare as prepare_module
from pipeline.data.prepare import verify as verify_module
from pipeline.data.prepare.prepare import prepare
from pipeline.data.sources.source import open_source

CLASSES = ("cat", "dog", "eel")


def make_folder(root, per_class=6, size=(9, 12), test=3, kind="png"):
    """An image folder of noise, different in each image; returns its settings."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", test)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (*size, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03d}.{kind}")
    return DataConfig(source="image_folder", path=str(root), validation_fraction=0.3)


def prepare_into(out, config, shard_size=4, reduction=None, raw=False):
    return prepare(
        open_source(config, 0), out, config,
        shard_size=shard_size, processes=2, on_done=lambda count: None, reduction=reduction,
        raw=raw,
    )  # fmt: skip


@contextmanager
def in_this_process():
    """Shards are written and verified without processes, whose start takes seconds."""

    def run(function, arguments, processes, on_result):
        for argument in arguments:
            on_result(argument, function(argument))

    name = "run_in_processes"
    with mock.patch.object(prepare_module, name, run), mock.patch.object(verify_module, name, run):
        yield


def write_tfrecord(path, images, labels, image_key="image/encoded", label_key="image/class/label"):
    """A TFRecord file by TensorFlow's own writer, with features in ImageNet's manner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            writer.write(make_example(image, label, image_key, label_key).SerializeToString())


def make_example(image, label, image_key="image/encoded", label_key="image/class/label"):
    feature = {
        "image/height": tf.train.Feature(int64_list=tf.train.Int64List(value=[9])),
        image_key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "image/object/bbox/xmin": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, 1])),
        label_key: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "image/class/text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"eel"])),
        "empty": tf.train.Feature(),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))
