"""The memory estimate against sums by hand."""

import pytest

from pipeline.config import Config, load_config
from pipeline.model.architecture import architecture
from pipeline.model.cost import activation_bytes_per_image, parameters
from pipeline.model.memory import LIBRARIES, estimate_memory
from pipeline.recipes import find_recipe

PARAMETERS = 1_000_000


def config(**sections):
    """The network for digits with 96 images per update, in four parts by default."""
    given = {"data": {"image_size": 8, "global_batch_size": 96}, "model": {"variant": "digits"}}
    return Config.model_validate(given | sections)


def tensors(settings, **how):
    need = estimate_memory(settings, PARAMETERS, 1, on_gpu=True, **how)
    del need[LIBRARIES]
    return list(need.values())


def test_weights_gradients_moments_and_averages_are_four_bytes_a_parameter():
    images = 96 * activation_bytes_per_image(architecture(config().model), 8, "float32")
    assert tensors(config()) == [4_000_000, 4_000_000, 8_000_000, images]
    averaged = config(optim={"ema_momentum": 0.9})
    assert tensors(averaged) == [4_000_000, 4_000_000, 8_000_000, 4_000_000, images]


def test_frozen_parameters_have_weights_alone():
    weights, gradients, moments, _ = tensors(config(), frozen=900_000)
    assert (weights, gradients, moments) == (4_000_000, 400_000, 800_000)


@pytest.mark.parametrize(
    ("in_turn", "parallel_parts", "gradients", "images"),
    [
        (1, 1, 1, 96),
        (1, 2, 3, 96),  # their sum, and one of each part
        (4, 1, 3, 24),  # their sum, the part's, and the new sum
        (4, 2, 5, 24),
    ],
)
def test_each_part_has_gradients_in_addition_to_their_sum(
    in_turn, parallel_parts, gradients, images
):
    settings = config(optim={"accumulate_steps": in_turn})
    need = estimate_memory(settings, PARAMETERS, 1, parallel_parts=parallel_parts)
    assert need["gradients"] == 4_000_000 * gradients
    assert f"activations of {images} images" in need


@pytest.mark.parametrize(
    ("settings", "measured_mib"),
    [
        ("", 1360),
        ("train.recompute=true", 765),
        ("optim.accumulate_steps=2", 834),
        ("optim.accumulate_steps=4", 564),
        ("optim.accumulate_steps=4 train.recompute=true", 443),
        ("train.precision=mixed_bfloat16", 928),
    ],
)
def test_the_estimate_is_within_15_percent_of_what_was_measured(settings, measured_mib):
    """Measured on two cores with `python -m benchmarks memory cifar10`."""
    given = load_config(find_recipe("cifar10"), ["data.source=synthetic", *settings.split()])
    count = parameters(architecture(given.model), 32, num_classes=10)
    need = estimate_memory(given, count, 1, parallel_parts=2)
    added_mib = (sum(need.values()) - need[LIBRARIES]) / 2**20
    assert added_mib == pytest.approx(measured_mib, rel=0.15)


def test_replicas_of_a_process_share_its_libraries():
    one, two = (estimate_memory(config(), PARAMETERS, 2, local_replicas=n) for n in (1, 2))
    assert two["weights"] == 2 * one["weights"]
    assert two[LIBRARIES] == one[LIBRARIES]


def test_sixteen_bits_need_less_for_activations_and_a_copy_of_the_weights():
    full, half = (
        estimate_memory(config(train={"precision": p}), PARAMETERS, 1)
        for p in ("float32", "mixed_bfloat16")
    )
    assert half["weights"] == full["weights"] * 1.5
    name = "activations of 96 images"
    assert half[name] < 0.7 * full[name]
