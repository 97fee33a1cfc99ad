"""Closed-form counts against hand counts and published values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pipeline.config import ModelConfig
from pipeline.model.architecture import Architecture, architecture
from pipeline.model.cost import (
    activation_bytes_per_image,
    count_parameters,
    parameters,
    variable_sizes,
)
from pipeline.model.vit import build_vit

TINY = Architecture(2, 8, 3, 2, 4, 16, pool="mean")  # at 4 px: 4 patches of 12 numbers


def test_activations_of_a_tiny_model_counted_by_hand() -> None:
    numbers = 4 * 8 + 5 * 8 + 2 * 4 + 2 * 16  # norms, query to output, probabilities, GELU
    back = 16 + 2 * 8  # the MLP's gradients, which need more than attention's here
    expected = 4 * 4 * (3 * numbers + back) + 48 * 4 + 8 * 8 * 4  # 4 tokens, 4 bytes
    assert activation_bytes_per_image(TINY, 4, "float32") == expected
    # With few units in the MLP it is attention: probabilities and their gradients in float32; of
    # query, key and value and of the input; less what the MLP has freed.
    narrow = replace(TINY, mlp_dim=1)
    back = 2 * 2 * 4 + 3 * 8 + 8 - 2 * 1 - 2 * 8
    expected = 4 * 4 * (3 * (numbers - 2 * 15) + back) + 48 * 4 + 8 * 8 * 4
    assert activation_bytes_per_image(narrow, 4, "float32") == expected


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
        (
            32,
            5,
            {"variant": "S/16", "depth": 1, "pool": "flatten", "mlp_dim": 24},
        ),
        (32, 5, {"variant": "Ti/8", "depth": 1, "stem": "convolutions"}),
    ],
)
def test_parameters_of_a_model_that_is_not_built_are_those_of_one_that_is(
    size: int, classes: int, settings: dict
) -> None:
    config = ModelConfig(**settings)
    built = build_vit(config, image_size=size, num_classes=classes)
    assert parameters(architecture(config), size, classes) == count_parameters(built)
    sizes = {variable.path: math.prod(variable.shape) for variable in built.variables}
    assert variable_sizes(architecture(config), size, classes) == sizes


def test_parameters_are_the_published_ones() -> None:
    # torchvision's vit_b_16: 86,567,656 weights at 224 px and 1,000 classes.
    assert parameters(architecture(ModelConfig(variant="B/16")), 224, 1000) == 86_567_656


def test_activations_of_a_stem_counted_by_hand() -> None:
    arch = replace(TINY, patch_size=4, depth=1, stem="convolutions")  # at 8 px: 4, 8 channels
    plain = replace(arch, stem="patches")
    more = 4 * (16 * 4 + 4 * 8) * 2  # numbers of four bytes in 16 places, then in 4
    assert activation_bytes_per_image(arch, 8, "float32") == more + activation_bytes_per_image(
        plain, 8, "float32"
    )
