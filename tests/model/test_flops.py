"""Closed-form operation counts against hand counts, published values and traced graphs."""

from __future__ import annotations

import math
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
import tensorflow as tf

from pipeline.config import ModelConfig
from pipeline.model.architecture import Architecture, architecture
from pipeline.model.flops import flops_per_image, training_flops_per_image
from pipeline.model.vit import VisionTransformer

TINY = Architecture(2, 8, 3, 2, 4, 16, pool="mean")  # at 4 px: 4 patches of 12 numbers


@pytest.mark.parametrize(
    # torchvision's table of models has B/16 and L/16; DeiT's paper has S as 4.6.
    ("variant", "giga_multiply_adds"),
    [("S/16", 4.6), ("B/16", 17.56), ("L/16", 61.55)],
)
def test_flops_are_twice_the_published_multiply_adds(
    variant: str, giga_multiply_adds: float
) -> None:
    flops = flops_per_image(architecture(ModelConfig(variant=variant)), 224, 1000)
    assert flops == pytest.approx(2e9 * giga_multiply_adds, rel=5e-3)


def test_flops_of_a_tiny_model_counted_by_hand() -> None:
    block = 4 * 4 * 8 * 8 + 2 * 4 * 4 * 8 + 2 * 4 * 8 * 16  # 1,024 + 256 + 1,024
    assert flops_per_image(TINY, 4, 5) == 2 * (4 * 12 * 8 + 3 * block + 8 * 5)


def test_flops_of_heads_and_tokens_counted_by_hand() -> None:
    arch = replace(TINY, depth=1, pool="flatten", head_dims=(6,), pre_logits=7)
    head = 4 * 8 * 6 + 6 * 7 + 7 * 5
    assert flops_per_image(arch, 4, 5) == 2 * (4 * 12 * 8 + 2304 + head)
    token = replace(TINY, depth=1, pool="token")  # 5 tokens, of which 4 are patches
    block = 5 * 4 * 8 * 8 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16
    assert flops_per_image(token, 4, 5) == 2 * (4 * 12 * 8 + block + 8 * 5)


def test_a_stem_is_counted_by_hand() -> None:
    arch = replace(TINY, patch_size=4, depth=1, stem="convolutions")  # at 8 px: 4, 8 channels
    block = 4 * 4 * 8 * 8 + 2 * 4 * 4 * 8 + 2 * 4 * 8 * 16
    stem = 16 * 27 * 4 + 4 * 9 * 4 * 8 + 4 * 8 * 8
    assert flops_per_image(arch, 8, 5) == 2 * (stem + block + 8 * 5)


def multiply_adds(op: tf.Operation) -> int:
    """Counts a matrix product, a convolution, or a gradient of a convolution."""
    if not any(name in op.type for name in ("MatMul", "Conv2D")):
        return 0
    shapes, result = [list(tensor.shape) for tensor in op.inputs], list(op.outputs[0].shape)
    return {
        "MatMul": lambda: math.prod(result) * shapes[0][0 if op.get_attr("transpose_a") else 1],
        "BatchMatMulV2": lambda: math.prod(result) * shapes[0][-2 if op.get_attr("adj_x") else -1],
        "Conv2D": lambda: math.prod(result) * math.prod(shapes[1][:3]),
        # Inputs: sizes, kernel, gradient of the result.
        "Conv2DBackpropInput": lambda: math.prod(shapes[2]) * math.prod(shapes[1][:3]),
        # Inputs: images, sizes, gradient of the result.
        "Conv2DBackpropFilter": lambda: math.prod(shapes[2]) * math.prod(result[:3]),
    }[op.type]()


def flops_of_graph(graph: tf.Graph) -> int:
    """Counts the operations on which the results of a graph depend."""
    needed, to_do = set(), [tensor.op for tensor in graph.outputs]
    while to_do:
        op = to_do.pop()
        if op not in needed:
            needed.add(op)
            to_do += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return 2 * sum(map(multiply_adds, needed))


@pytest.mark.parametrize(
    "patterns",
    [
        ["*"],
        ["vit/head/*"],
        ["vit/head/kernel"],
        ["vit/block_1/*", "vit/norm/*", "vit/head/*"],
        ["vit/block_1/mlp/out/*"],
        ["vit/block_0/attention/query/kernel"],
        ["vit/block_0/attention/value/bias"],
        ["vit/block_1/mlp_norm/gamma"],
        ["*bias"],
        ["*position_embedding*", "vit/head/*"],
        ["*patch_embedding*"],
    ],
)
@pytest.mark.parametrize("stem", ["patches", "convolutions"])
def test_training_flops_equal_those_of_the_graph(stem: str, patterns: list[str]) -> None:
    arch = replace(
        TINY, patch_size=4, depth=2, stem=stem, pool="token", head_dims=(6,), pre_logits=7
    )
    model = VisionTransformer(arch, 8, 5)
    model.build((None, 8, 8, 3))
    for variable in model.variables:
        variable.trainable = any(fnmatchcase(variable.path, pattern) for pattern in patterns)
    trained = model.trainable_variables
    images = 3

    @tf.function(autograph=False)
    def step(batch: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = model(batch, training=True)
            loss = tf.reduce_sum(logits**2)
        return [logits, *tape.gradient(loss, [v.value for v in trained])]

    graph = step.get_concrete_function(tf.TensorSpec([images, 8, 8, 3])).graph
    counted = training_flops_per_image(arch, 8, 5, [v.path for v in trained])
    assert counted * images == flops_of_graph(graph)


def test_a_linear_probe_costs_the_forward_pass_plus_the_head() -> None:
    arch = architecture(ModelConfig(variant="B/16"))
    probe = training_flops_per_image(arch, 224, 1000, ["vit/head/kernel", "vit/head/bias"])
    assert probe == flops_per_image(arch, 224, 1000) + 2 * 768 * 1000
