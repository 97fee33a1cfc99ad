"""Variables of any dtype and shape reach another process bit for bit."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.runtimes.variable_bytes import assign_parts, read_parts


@pytest.mark.parametrize("part_bytes", [1, 16, 1 << 20])
def test_values_of_all_dtypes_and_shapes_arrive(part_bytes):
    draw = np.random.default_rng(0)
    values = [
        tf.constant(True),
        tf.constant(draw.normal(size=(3, 5)), tf.float32),
        tf.constant(draw.normal(size=7), tf.bfloat16),
        tf.constant([np.nan, -0.0, np.inf], tf.float64),
        tf.constant(1 << 40, tf.int64),
        tf.zeros([0, 2]),
    ]
    here = [tf.Variable(value) for value in values]
    there = [tf.Variable(tf.zeros_like(value)) for value in values]
    assign_parts(there, list(read_parts(here, part_bytes)))
    for own, other in zip(here, there, strict=True):
        assert own.numpy().tobytes() == other.numpy().tobytes()
