"""Recomputed activations give the same gradients with more operations and less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import ModelConfig
from pipeline.model.architecture import architecture
from pipeline.model.cost import activation_bytes_per_image
from pipeline.model.vit import VisionTransformer, build_vit

IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")
CONFIG = ModelConfig(variant="digits", depth=3, dropout=0.1, stochastic_depth=0.1)


def gradients_of(recompute: bool, dtype: str) -> tuple[VisionTransformer, Any]:
    model = build_vit(CONFIG, image_size=8, num_classes=10, dtype=dtype, recompute=recompute)

    @tf.function(autograph=False)
    def gradients(images: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = model(images, dropout_seed=tf.constant([1, 2]), training=True)
            loss = tf.reduce_sum(logits**2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    return model, gradients


# Compilation and precision meet in no line of recomputation: each value of both occurs once.
@pytest.mark.usefixtures("plain_and_compiled")
@pytest.mark.parametrize(
    ("plain_and_compiled", "dtype"),
    [("plain", "mixed_bfloat16"), ("fused", "float32")],
    indirect=["plain_and_compiled"],
)
def test_gradients_are_equal_with_dropout_too(dtype: str) -> None:
    (model, plain), (_, again) = (gradients_of(recompute, dtype) for recompute in (False, True))
    for variable, one, other in zip(
        model.trainable_variables, plain(IMAGES), again(IMAGES), strict=True
    ):
        scale = max(1e-6, np.abs(one).max())
        np.testing.assert_allclose(one / scale, other / scale, atol=1e-6, err_msg=variable.path)


def test_every_block_but_the_last_is_computed_again() -> None:
    counts = []
    for recompute in (False, True):
        _, gradients = gradients_of(recompute, "float32")
        graph = gradients.get_concrete_function(tf.constant(IMAGES)).graph
        counts.append(sum(op.type == "Softmax" for op in graph.get_operations()))
    assert counts == [3, 3 + 2]


def test_evaluation_does_not_recompute() -> None:
    plain, again = (
        build_vit(CONFIG, image_size=8, num_classes=10, recompute=recompute)
        for recompute in (False, True)
    )
    np.testing.assert_array_equal(plain(IMAGES), again(IMAGES))


def test_the_estimate_counts_the_inputs_of_the_blocks_and_what_one_of_them_needs() -> None:
    arch = architecture(ModelConfig(variant="digits", dropout=0.0))  # 4 blocks, 16 tokens of 64
    plain = activation_bytes_per_image(arch, 8, "float32")
    again = activation_bytes_per_image(arch, 8, "float32", recompute=True)
    # Norms; query to output of 4 heads of 16; probabilities between 16 tokens; GELU of 128 units.
    block = 16 * 4 * (4 * 64 + 5 * 64 + 4 * 16 + 2 * 128)
    # Of a block that was computed again wait: the gradients of both branches' results, of the keys
    # and of the MLP's units.
    waiting = 16 * 4 * (2 * 64 + 4 * 16 + 128)
    assert plain - again == 3 * (block - waiting)
