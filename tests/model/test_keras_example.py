"""The variant `keras_example` against a network of stock Keras layers with equal weights."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.keras_example import copy_weights, keras_example, paths_in_pipeline
from pipeline.config import ModelConfig
from pipeline.model.architecture import architecture
from pipeline.model.cost import count_parameters
from pipeline.model.vit import VisionTransformer, build_vit

IMAGES = np.random.default_rng(1).normal(size=(4, 24, 24, 3)).astype("float32")


@pytest.fixture(scope="module")
def example() -> tuple[VisionTransformer, keras.Model]:
    """Our network and the one of stock layers on 24 px (16 patches), with equal weights."""
    config = ModelConfig(variant="keras_example", dropout=0.0, attention_dropout=0.0)
    model = build_vit(config, image_size=24, num_classes=10)
    reference = keras_example(10, 24, dropout=False)
    copy_weights(model, reference)
    return model, reference


def test_the_keras_example_at_its_own_size_has_the_same_parameters() -> None:
    model = build_vit(ModelConfig(variant="keras_example"), image_size=72, num_classes=100)
    # Its variables that are not trained are the seeds of its dropout layers.
    trained = keras_example(100, 72).trainable_variables
    assert count_parameters(model) == sum(math.prod(v.shape) for v in trained) == 21_759_012


def test_the_keras_example_drops_where_the_stock_layers_drop() -> None:
    arch = architecture(ModelConfig(variant="keras_example"))
    rates = [
        layer.rate
        for layer in keras_example(10, 24).layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    assert rates == [arch.dropout] * 2 * arch.depth + [arch.head_dropout] * 3
    assert not arch.dropout_everywhere
    assert arch.attention_dropout == 0.1


def test_the_keras_example_computes_what_stock_layers_compute(
    example: tuple[VisionTransformer, keras.Model],
) -> None:
    model, reference = example
    np.testing.assert_allclose(model(IMAGES), reference(IMAGES), rtol=0, atol=1e-5)


def test_the_keras_example_has_the_gradients_of_stock_layers(
    example: tuple[VisionTransformer, keras.Model],
) -> None:
    model, reference = example
    labels = np.array([0, 3, 3, 9])

    def gradients(network: keras.Model, variables: list[Any]) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(
                labels, network(IMAGES), from_logits=True
            )
        return [np.asarray(tf.convert_to_tensor(g)) for g in tape.gradient(loss, variables)]

    ours = {v.path: v.value for v in model.trainable_variables}
    pairs = [
        (path, weight.value)
        for name, paths in paths_in_pipeline().items()
        for path, weight in zip(paths, reference.get_layer(name).weights, strict=True)
    ]
    found = gradients(model, [ours[path] for path, _ in pairs])
    theirs = gradients(reference, [weight for _, weight in pairs])
    for (path, _), got, expected in zip(pairs, found, theirs, strict=True):
        scale = np.abs(expected).max()
        if path.endswith("key/bias"):  # truly zero: a softmax does not see it
            assert max(scale, np.abs(got).max()) < 1e-6
        else:
            np.testing.assert_allclose(
                got, expected.reshape(got.shape), rtol=0, atol=2e-5 * scale, err_msg=path
            )


def test_the_keras_example_starts_with_the_spread_of_stock_layers() -> None:
    model = build_vit(ModelConfig(variant="keras_example"), image_size=24, num_classes=10)
    reference = keras_example(10, 24)
    ours = {v.path: np.asarray(v.value) for v in model.variables}
    for name, paths in paths_in_pipeline().items():
        for path, stock in zip(paths, reference.get_layer(name).weights, strict=True):
            got, expected = np.abs(ours[path]).max(), np.abs(np.asarray(stock)).max()
            assert got == pytest.approx(expected, rel=0.02), path
