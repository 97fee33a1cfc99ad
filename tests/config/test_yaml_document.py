"""YAML is read as nested text."""

import pytest

from pipeline.config import (
    load_config,
)
from pipeline.errors import SettingsError


def test_a_value_may_have_a_tag_of_its_type(recipe):
    text = "seed: !!int 7\nrun: !!map {dir: !!str 7}\noptim: {clip_norm: !!null null}"
    config = load_config(recipe(f"{text}\ntrain: {{deterministic: !!bool true}}"))
    assert (config.seed, config.run.dir, config.optim.clip_norm) == (7, "7", None)
    assert config.train.deterministic is True


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("optim: {base_lr: 1}\noptim: {weight_decay: 1}", "optim appears twice, on lines 1 and 2"),
        ("seed: 1\ntrain:\n  epochs: 1\n  epochs: 2", "train.epochs appears .* lines 3 and 4"),
        ("data:\n  augment:\n    flip: true\n    'flip': true", "augment.flip .* lines 3 and 4"),
        ("data: {image_size: 8, image_size: 9}", "data.image_size appears twice, on line 1"),
    ],
)
def test_a_duplicate_key_is_reported_with_both_lines(recipe, text, lines):
    with pytest.raises(SettingsError, match=lines):
        load_config(recipe(text))


def test_merge_keys_and_aliases_work_and_loops_are_refused(recipe):
    path = recipe("data:\n  augment: &a {flip: true}\nbase:\n")
    assert load_config(path).data.augment.flip
    merged = recipe("data: {augment: {<<: {flip: true}, zoom: 0.1}}")
    assert load_config(merged).data.augment.flip
    with pytest.raises(SettingsError, match="an alias refers to a value that contains it"):
        load_config(recipe("data: &d {augment: *d}"))
