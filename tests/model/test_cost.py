"""Closed forms against hand counts and published figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.config import ModelConfig
from pipeline.model.architecture import Architecture, architecture
from pipeline.model.cost import (
    activation_bytes_per_image,
    count_parameters,
    flops_per_image,
    parameters,
)
from pipeline.model.vit import build_vit

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


def test_activations_of_a_tiny_model_counted_by_hand() -> None:
    numbers = 4 * 8 + 5 * 8 + 2 * 4 + 2 * 16  # norms, query to output, probabilities, GELU
    block, scores = 4 * numbers * 4, 3 * 2 * 4 * 4 * 4  # tokens, bytes
    expected = (3 + 1) * block + scores + 48 * 4 + 8 * 8 * 4
    assert activation_bytes_per_image(TINY, 4, "float32") == expected


def test_activations_shrink_with_precision_and_grow_with_dropout() -> None:
    arch = architecture(ModelConfig(variant="S/16"))
    full = activation_bytes_per_image(arch, 224, "float32")
    half = activation_bytes_per_image(arch, 224, "mixed_bfloat16")
    assert 0.5 * full < half < 0.75 * full
    dropped = replace(arch, dropout=0.1, attention_dropout=0.1)
    assert activation_bytes_per_image(dropped, 224, "float32") > 1.2 * full


def test_parameters_are_counted_over_the_trainable_variables() -> None:
    model = build_vit(ModelConfig(variant="digits", depth=1), image_size=8, num_classes=10)
    assert count_parameters(model) == 832 + 1024 + 33_472 + 128 + 650


@pytest.mark.parametrize(
    ("size", "classes", "settings"),
    [
        (8, 10, {"variant": "digits"}),
        (32, 100, {"variant": "cifar"}),
        (72, 7, {"variant": "keras_example", "depth": 2}),
        (32, 5, {"variant": "Ti/8", "depth": 2, "positions": "sincos2d", "pre_logits": 11}),
        (32, 5, {"variant": "S/16", "depth": 1, "pool": "flatten", "mlp_dim": 24}),
        (32, 5, {"variant": "Ti/8", "depth": 1, "stem": "convolutions"}),
    ],
)
def test_parameters_of_a_model_that_is_not_built_are_those_of_one_that_is(
    size: int, classes: int, settings: dict
) -> None:
    config = ModelConfig(**settings)
    built = count_parameters(build_vit(config, image_size=size, num_classes=classes))
    assert parameters(architecture(config), size, classes) == built


def test_parameters_are_the_published_ones() -> None:
    # torchvision's vit_b_16: 86,567,656 weights at 224 px and 1,000 classes.
    assert parameters(architecture(ModelConfig(variant="B/16")), 224, 1000) == 86_567_656


def test_a_stem_is_counted_by_hand() -> None:
    arch = replace(TINY, patch_size=4, depth=1, stem="convolutions")  # at 8 px: 4, 8 channels
    block = 4 * 4 * 8 * 8 + 2 * 4 * 4 * 8 + 2 * 4 * 8 * 16
    stem = 16 * 27 * 4 + 4 * 9 * 4 * 8 + 4 * 8 * 8
    assert flops_per_image(arch, 8, 5) == 2 * (stem + block + 8 * 5)
    plain = replace(arch, stem="patches")
    more = 4 * (16 * 4 + 4 * 8) * 2  # numbers of four bytes in 16 places, then in 4
    assert activation_bytes_per_image(arch, 8, "float32") == more + activation_bytes_per_image(
        plain, 8, "float32"
    )
