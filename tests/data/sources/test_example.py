"""tf.Example without TensorFlow, against TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data.sources.example import (
    IMAGE_KEY,
    LABEL_KEY,
    NAME_KEY,
    bytes_feature,
    encode_example,
    int_feature,
)
from tests.data.prepared import make_example


@pytest.mark.parametrize("label", [0, 1, 127, 128, 999, 2**40])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 70_000])
def test_tensorflow_reads_what_is_written(label, length):
    image = np.random.default_rng(length).bytes(length)
    example = tf.train.Example.FromString(encode_example(image, label, "ein Bild ä.jpg"))
    feature = example.features.feature
    assert set(feature) == {IMAGE_KEY, LABEL_KEY, NAME_KEY}
    assert feature[IMAGE_KEY].bytes_list.value == [image]
    assert feature[LABEL_KEY].int64_list.value == [label]
    assert feature[NAME_KEY].bytes_list.value == ["ein Bild ä.jpg".encode()]


@pytest.mark.parametrize("label", [0, 1, 300, -1, -(2**40), 2**62])
@pytest.mark.parametrize("length", [0, 3, 100_000])
def test_what_tensorflow_writes_is_read(label, length):
    image = np.random.default_rng(length).bytes(length)
    record = make_example(image, label, "mine", "number").SerializeToString()
    padded = b"before" + record + b"behind"
    assert bytes_feature(record, "mine") == image
    assert bytes_feature(padded, "mine", 6, 6 + len(record)) == image
    assert int_feature(record, "number") == label
    assert int_feature(padded, "number", 6, 6 + len(record)) == label


def test_what_is_not_there_is_told():
    record = make_example(b"x", 1).SerializeToString()
    with pytest.raises(ValueError, match=r"no feature 'image': it has .*image/encoded"):
        bytes_feature(record, "image")
    with pytest.raises(ValueError, match="'image/class/label' is not bytes"):
        bytes_feature(record, "image/class/label")
    with pytest.raises(ValueError, match="'empty' is not an integer"):
        int_feature(record, "empty")


@pytest.mark.parametrize("end", [1, 2, 5, 20, 40])
def test_a_part_of_an_example_is_none(end):
    record = encode_example(b"image" * 10, 3, "name")
    with pytest.raises(ValueError, match=r"tf\.Example"):
        bytes_feature(record[:end], IMAGE_KEY)


def test_random_bytes_end_in_no_other_error():
    rng = np.random.default_rng(0)
    for length in rng.integers(0, 200, 2000):
        with pytest.raises(ValueError, match=r"feature|tf\.Example"):
            bytes_feature(rng.bytes(int(length)), IMAGE_KEY)
