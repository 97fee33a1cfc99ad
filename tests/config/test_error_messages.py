"""An error message says where the setting is and how to fix it."""

import pytest

from pipeline.config import (
    load_config,
)
from pipeline.errors import SettingsError


def test_an_error_names_the_file_and_line_of_the_setting_or_the_command_line(recipe):
    base = recipe("seed: 1\noptim:\n  base_lr: fast", "base.yaml")
    path = recipe("base: base.yaml\n\ntrain:\n  epochs: 0\n")
    with pytest.raises(SettingsError) as caught:
        load_config(path, ["data.image_size=big"])
    assert str(caught.value).splitlines() == [
        "3 settings are wrong:",
        "  on the command line: data.image_size: must be a whole number. Received: 'big'",
        f"  {base}, line 3: optim.base_lr: must be a number. Received: 'fast'",
        f"  {path}, line 4: train.epochs: must be greater than 0. Received: 0.0",
    ]


@pytest.mark.parametrize(
    ("text", "nested"),
    [
        ("data.image_size: 8", "`data: {image_size: 8}`"),
        ("data.augment.flip: true", "`data: {augment: {flip: true}}`"),
        ("data: {augment.flip: true}", "`data: {augment: {flip: true}}`"),
    ],
)
def test_a_dotted_key_in_a_file_is_explained_as_nested_sections(recipe, text, nested):
    with pytest.raises(SettingsError, match="inside its section: write") as caught:
        load_config(recipe(text))
    assert nested in str(caught.value)
    load_config(recipe(nested.strip("`")))  # the suggested form is valid
