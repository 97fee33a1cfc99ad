"""Checks that involve settings of several sections."""

import pytest

from pipeline.config import (
    load_config,
)
from pipeline.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "overrides", "place"),
    [
        ("optim:\n  accumulate_steps: 7", ["seed=1"], "recipe.yaml, line 2: "),
        ("optim:\n  accumulate_steps: 2", ["optim.accumulate_steps=7"], "on the command line: "),
        ("optim: {accumulate_steps: 7}", ["data.global_batch_size=8"], "on the command line: "),
    ],
)
def test_an_inconsistency_is_reported_at_the_place_of_one_of_the_settings(
    recipe, text, overrides, place
):
    with pytest.raises(SettingsError) as caught:
        load_config(recipe(text), overrides)
    assert f"{place}optim.accumulate_steps must divide" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        (["data.global_batch_size=96"], 8),
        (["data.global_batch_size=100"], 5),
        (["data.global_batch_size=97"], 1),
        (["data.global_batch_size=7"], 7),
        (["data.global_batch_size=12"], 6),
        (["data.global_batch_size=12", "data.mixup_alpha=0.2"], 6),
        (["data.global_batch_size=12", "optim.accumulate_steps=3"], 4),
        (["data.global_batch_size=12", "optim.accumulate_steps=3", "data.cutmix_alpha=1"], 2),
        (["data.global_batch_size=96", "train.microbatches=32"], 32),
    ],
)
def test_microbatches_divide_the_batch_into_parts_of_pairs(recipe, settings, number):
    config = load_config(recipe(""), ["train.deterministic=true", *settings])
    assert config.microbatches == number
    assert config.microbatch_size * number == config.data.global_batch_size
    # Without deterministic training, only the setting divides the batch.
    given = any(setting.startswith("train.microbatches") for setting in settings)
    assert load_config(recipe(""), settings).microbatches == (number if given else None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["data.global_batch_size=96", "train.microbatches=7"],
            "=96 into equal parts, for example 4, 6, 8. Received: 7",
        ),
        (
            ["data.global_batch_size=96", "train.microbatches=96", "data.mixup_alpha=0.2"],
            "=96 into parts of a multiple of 2 examples, for example 16, 24, 48. Received: 96",
        ),
        (["distribute.compression=float16"], "Set distribute.compression=none. Received: float16"),
        (["distribute.intra_op_threads=2"], "distribute.intra_op_threads must be 1 or null"),
    ],
)
def test_what_contradicts_deterministic_training_is_refused(recipe, settings, message):
    with pytest.raises(SettingsError) as caught:
        load_config(recipe(""), ["train.deterministic=true", *settings])
    assert str(caught.value).startswith("on the command line: ")
    assert message in str(caught.value)
    if not any(setting.startswith("train.microbatches") for setting in settings):
        load_config(recipe(""), settings)  # without deterministic training


def test_microbatches_are_checked_without_deterministic_training_too(recipe):
    with pytest.raises(SettingsError, match=r"into equal parts.* Received: 7"):
        load_config(recipe(""), ["data.global_batch_size=96", "train.microbatches=7"])
    with pytest.raises(SettingsError, match=r"which train.microbatches excludes"):
        load_config(recipe(""), ["train.microbatches=8", "distribute.compression=float16"])
