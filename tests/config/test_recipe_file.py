"""A recipe file and the files it inherits from."""

import pytest

from pipeline.config import (
    load_config,
)
from pipeline.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("seed: 1\noptim:\n  base_lr: !!float x", "line 3: 'x' is not of type !!float"),
        ("seed: !!int abc", "line 1: 'abc' is not of type !!int"),
        ("seed: !!int ''", "line 1: '' is not of type !!int"),
        ("train: {deterministic: !!bool maybe}", "'maybe' is not of type !!bool"),
        ("seed: 1\nrun: {dir: !!timestamp x}", "line 2: the tag !!timestamp is not supported"),
        ("train: {callbacks: [!!timestamp 2001-99-99]}", "the tag !!timestamp is not supported"),
        ("seed: !!binary x", "the tag !!binary is not supported"),
        ("run: {dir: !new/run }", "the tag !new/run is not supported.*quotes"),
        ("run: !!set {dir: x}", "the tag !!set is not supported"),
        ("seed: !!int [1]", "not valid YAML: expected a scalar node"),
        ("? !!str {a: b}\n: 1", "line 1: the name of a setting must be text"),
        ("- 1", "must contain settings"),
        ("[]", "must contain settings"),
        ("false", "must contain settings"),
        ("base: [a, b]", "line 1: base must name one YAML file"),
        ("seed: 1\n--- \nseed: 2", "line 2: not valid YAML"),
        (
            "data: {resize: none, augment: {resized_crop_min_area: 0.2}}",
            "data.resize=squash or data.resize=crop",
        ),
        ("base: recipe.yaml", "itself"),
        ("base: nowhere.yaml", "cannot read the recipe"),
    ],
)
def test_a_wrong_recipe_file_is_named(recipe, text, message):
    with pytest.raises(SettingsError, match=message):
        load_config(recipe(text))


@pytest.mark.parametrize("section", ["train:", "train:\n  # epochs: 3\n", "train: {}"])
def test_an_empty_section_changes_nothing(recipe, section):
    recipe("train: {epochs: 7}", "base.yaml")
    assert load_config(recipe(section)) == load_config(recipe(""))
    assert load_config(recipe(f"base: base.yaml\n{section}")).train.epochs == 7


def test_null_for_a_section_is_refused_because_it_would_not_reset_the_base(recipe):
    recipe("data: {augment: {flip: true}}", "base.yaml")
    with pytest.raises(SettingsError, match=r"data.augment: is a section; .* Received: null"):
        load_config(recipe("base: base.yaml\ndata: {augment: null}"))
