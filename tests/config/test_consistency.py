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
