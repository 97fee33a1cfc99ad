"""What could make bits differ is reported, and a model that is random by itself is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import SettingsError
from pipeline.training.reproducibility import bit_warnings, check_repeatable
from tests.training.experiments import tiny_config

VERSIONS = {"tensorflow": "2.21.0", "keras": "3.12.0", "python": "3.12.1"}


def test_the_same_processor_and_versions_give_no_warning():
    start = {"processors": ["Xeon"], "versions": dict(VERSIONS)}
    assert bit_warnings(["Xeon", "Xeon"], VERSIONS, []) == []
    assert bit_warnings(["Xeon", "Xeon"], VERSIONS, [{"processors": ["EPYC"]}, start]) == []
    assert bit_warnings(["Xeon"], VERSIONS, [{"host": "a"}]) == []  # recorded by an older version
    python = start | {"versions": VERSIONS | {"python": "3.11.0"}}
    assert bit_warnings(["Xeon"], VERSIONS, [python]) == []  # it has no kernels


def test_different_processors_and_versions_are_named():
    (mixed,) = bit_warnings(["Xeon", "EPYC"], VERSIONS, [])
    assert "different processors (EPYC; Xeon)" in mixed
    start = {"processors": ["EPYC"], "versions": VERSIONS | {"tensorflow": "2.20.0"}}
    other, version = bit_warnings(["Xeon"], VERSIONS, [start])
    assert "trained on EPYC and resumes on Xeon" in other
    assert "tensorflow 2.20.0 is now 2.21.0" in version


class Scaled(keras.layers.Layer):
    """A dense layer whose result is multiplied by a factor."""

    def __init__(self, factor):
        super().__init__()
        self.num_classes, self.factor = 4, factor
        self.dense = keras.layers.Dense(4)

    def build(self, input_shape):
        self.dense.build([None, 192])

    def call(self, images, dropout_seed, training):
        return self.dense(tf.reshape(images, [-1, 192])) * self.factor(dropout_seed)


@pytest.mark.parametrize(
    ("factor", "repeatable"),
    [
        (lambda seed: tf.random.stateless_uniform([], seed), True),
        (lambda seed: tf.random.uniform([]), False),
        (lambda seed: tf.numpy_function(np.random.rand, [], tf.float64), False),
    ],
)
def test_a_model_that_draws_without_the_seed_is_refused(tmp_path, factor, repeatable):
    config = tiny_config(tmp_path, "model.builder=my_model:make")
    model = Scaled(lambda seed: tf.cast(factor(seed), tf.float32))
    model.build([None, 8, 8, 3])
    if repeatable:
        check_repeatable(config, model)
    else:
        with pytest.raises(SettingsError, match=r"my_model:make.*dropout_seed"):
            check_repeatable(config, model)
