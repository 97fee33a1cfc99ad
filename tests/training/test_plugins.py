"""Users' data sources, augmentations, models and losses: resumed exactly, and checked."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from pipeline.errors import DataError, SettingsError, Stopped
from pipeline.runs.folder import RunFolder
from pipeline.training import plugin_checks
from pipeline.training.plugin_checks import check_named_code
from tests.plugin_examples import SETTINGS, write_examples
from tests.runtimes.ranks import on_ranks
from tests.training.experiments import tiny, tiny_config
from tests.training.runs import StopAt, assert_same_end, train


@pytest.fixture
def examples(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return write_examples(folder)


def test_a_run_with_all_plugins_resumes_to_the_same_weights(tmp_path, examples):
    assert examples == ["my_callbacks.py", "my_source.py", "my_augmentation.py", "my_model.py",
                        "my_loss.py"]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    settings = [*SETTINGS, "train.callbacks=my_callbacks:PrintBest"]
    train(whole, *settings, fresh=False)
    with pytest.raises(Stopped):
        train(parts, *settings, stop=StopAt(3), fresh=False)
    train(parts, *settings)
    assert_same_end(parts, whole)


def test_a_run_is_not_resumed_with_another_plugin(tmp_path, examples):
    with pytest.raises(Stopped):
        train(tmp_path, *SETTINGS, stop=StopAt(3))
    for setting in ("optim.loss=null", "data.augment.extra=[]", "data.source=synthetic"):
        config = tiny_config(tmp_path, *SETTINGS, setting)
        with pytest.raises(SettingsError, match=f"{setting.partition('=')[0]}: .*my_"):
            RunFolder(config.run_dir).check(config)


def test_each_plugin_changes_what_is_trained(tmp_path, examples):
    def gradients(*settings):
        experiment = tiny(tmp_path, "train.deterministic=false", *settings)
        batch = next(experiment.train_iterator(0))
        sums, found = experiment.gradients.gradients_of(
            batch, tf.constant(0, tf.int64), tf.constant(0, tf.int32)
        )
        return batch["image"].numpy(), len(found), float(sums[0])

    images, variables, loss = gradients()
    assert not np.array_equal(gradients(SETTINGS[0])[0], images)
    assert not np.array_equal(gradients(SETTINGS[1])[0], images)
    assert gradients(SETTINGS[2])[1] != variables
    assert gradients(SETTINGS[3])[2] < loss


def test_processes_with_different_files_of_a_plugin_are_refused(tmp_path, examples, monkeypatch):
    config = tiny_config(tmp_path, SETTINGS[3])
    assert on_ranks(lambda runtime: check_named_code(config, runtime), 2) == [None, None]
    digests = iter(["a", "b"])
    monkeypatch.setattr(plugin_checks, "_load", lambda *_: next(digests))
    for error in on_ranks(lambda runtime: check_named_code(config, runtime), 2):
        assert error.exit_code == 2
        assert "a different file for my_loss:focal" in str(error)


# Sources that lack something.


class NoVersion:
    classes = ("a", "b")

    def __init__(self, path):
        self.path = path

    def labels(self, split):
        return np.arange(40) % 2

    def read(self, split, index):
        return np.full([8, 8, 3], index, np.uint8)


class Whole(NoVersion):
    version = "1"


class NoTrain(Whole):
    def labels(self, split):
        return None if split == "train" else np.arange(4) % 2


class FloatLabels(Whole):
    def labels(self, split):
        return np.zeros(4)


class FloatPixels(Whole):
    def read(self, split, index):
        return np.zeros([8, 8, 3])


class WrongLabel(Whole):
    def labels(self, split):
        return np.arange(40) % 3


class NoInit(Whole):
    def __init__(self):
        pass


# Augmentations.


def returns_larger(images, random):
    return tf.concat([images, images], axis=1)


def returns_integers(images, random):
    return tf.cast(images, tf.uint8)


def has_its_own_random_numbers(images, random):
    return images * tf.random.uniform([])


def looks_at_the_batch(images, random):
    return images - tf.reduce_mean(images)


def asks_for_nothing(images, random):
    return images * random(0)[:, None, None, None]


# Losses.


def mean_loss(target, logits):
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))


def normalized_by_the_batch(target, logits):
    losses = tf.nn.softmax_cross_entropy_with_logits(target, logits)
    return losses / tf.reduce_sum(losses)


def noisy(target, logits):
    return tf.random.normal(tf.shape(logits)[:1])


def broken(target, logits):
    raise KeyError("my key")


# Models.


def network(*hidden, image_size, num_classes, seed, dtype, name="network", head="head", **options):
    del dtype
    images = keras.Input([image_size, image_size, 3])
    x = layers.Flatten(name="flat")(images)
    for layer in hidden:
        x = layer(x)
    kernel = options.get("kernel", keras.initializers.GlorotUniform(seed))
    out = layers.Dense(num_classes, name=head, kernel_initializer=kernel)(x)
    return keras.Model(images, out, name=name)


def no_model(**sizes):
    return "model"


def other_sizes(**sizes):
    return network(**sizes | {"num_classes": 7})


def batch_norm(**sizes):
    return network(layers.BatchNormalization(name="norm"), **sizes)


def dropout(**sizes):
    return network(layers.Dropout(0.5, name="drop"), **sizes)


def unnamed(**sizes):
    return network(**sizes, head=None)


def unseeded(**sizes):
    return network(**sizes, kernel=keras.initializers.GlorotUniform(np.random.randint(1 << 30)))


def other_arguments(size):
    return None


@pytest.mark.parametrize(
    ("setting", "name", "message"),
    [
        ("data.source", "NoVersion", "NoVersion lacks version"),
        ("data.source", "NoTrain", r"labels\('train'\) must return labels"),
        ("data.source", "FloatLabels", r"must return integers \[N\]. Received: float64 \[4\]"),
        ("data.source", "NoInit", "takes 1 positional argument"),
        ("data.source", "missing", "has no function or class missing"),
        ("data.augment.extra", "returns_larger", r"must return float32 \[3, 8, 8, 3\].*16"),
        ("data.augment.extra", "returns_integers", "Received: uint8"),
        ("data.augment.extra", "has_its_own_random_numbers", "RandomUniform.*Use random"),
        ("data.augment.extra", "looks_at_the_batch", "depends on the other images"),
        ("data.augment.extra", "asks_for_nothing", r"(?s)n must be in 1\.\.1000"),
        ("optim.loss", "mean_loss", r"must return the loss of each example.*float32 \[\]"),
        ("optim.loss", "normalized_by_the_batch", "depends on the other examples"),
        ("optim.loss", "noisy", "RandomStandardNormal.*must not be random"),
        ("optim.loss", "broken", "(?s)failed:.*my key"),
        ("model.builder", "no_model", "must return a keras.Model. Received: str"),
        ("model.builder", "other_sizes", r"logits, float32 \[2, 4\]. Received: float32 \[2, 7\]"),
        ("model.builder", "batch_norm", "not trained: .*moving_mean"),
        ("model.builder", "dropout", "not trained: .*seed"),
        ("model.builder", "unnamed", "Set `name` for the model and for each layer"),
        ("model.builder", "unseeded", "different initial values of head/kernel"),
        ("model.builder", "other_arguments", "(?s)failed:.*unexpected keyword argument"),
    ],
)
def test_a_plugin_that_lacks_something_is_refused_before_the_first_step(
    tmp_path, setting, name, message
):
    with pytest.raises(SettingsError, match=message) as error:
        tiny(tmp_path, f"{setting}={__name__}:{name}", "train.deterministic=false")
    assert error.value.exit_code == 2
    assert re.match(rf"{setting}: '{__name__}:{name}'", str(error.value))


def test_wrong_data_of_a_source_is_an_error_of_the_data(tmp_path):
    for name, message in (("FloatPixels", "float64"), ("WrongLabel", "label of example 2")):
        with pytest.raises(DataError, match=message):
            tiny(tmp_path, f"data.source={__name__}:{name}")


def test_a_source_without_validation_gives_a_part_of_its_training_images(tmp_path):
    source = tiny(tmp_path, f"data.source={__name__}:OnlyTrain").source
    assert source.splits["train"].num_examples + source.splits["validation"].num_examples == 40
    assert "test" not in source.splits


class OnlyTrain(Whole):
    def labels(self, split):
        return np.arange(40) % 2 if split == "train" else None
