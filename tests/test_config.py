import re

import pytest
import yaml

from pipeline.config import (
    Config,
    all_settings,
    dump_config,
    load_config,
    parse_config,
    training_differences,
    value_of,
)
from pipeline.errors import SettingsError

SHIPPED = ["digits", "keras_example", "cifar10", "cifar100", "image_folder"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("5.e-4", 5e-4), ("+2e2", 200.0), ("1", 1.0)],
)
def test_numbers_are_read_as_people_write_them(recipe, text, value):
    path = recipe(f"optim: {{base_lr: {text}}}")
    assert load_config(path).optim.base_lr == value
    assert load_config(path, [f"optim.base_lr={text}"]).optim.base_lr == value


def test_plain_words_stay_words(recipe):
    path = recipe("data: {path: 1e3photos, source: image_folder}")
    assert load_config(path).data.path == "1e3photos"


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_its_base(recipe):
    recipe("seed: 1\ndata: {image_size: 8, global_batch_size: 4}", "base.yaml")
    path = recipe("base: base.yaml\ndata: {image_size: 16}")
    config = load_config(path, ["data.global_batch_size=8", "data.global_batch_size=12"])
    assert (config.seed, config.data.image_size, config.data.global_batch_size) == (1, 16, 12)


def test_the_run_folder_is_named_after_the_recipe(recipe):
    path = recipe("seed: 1", "mine.yaml")
    assert str(load_config(path).run_dir) == "runs/mine"
    assert str(load_config(path, ["run.dir=elsewhere"]).run_dir) == "elsewhere"


def test_resolved_settings_read_back_the_same(recipe):
    config = load_config(recipe("data: {augment: {flip: true}}\ntrain: {callbacks: ['a:b']}"))
    assert parse_config(yaml.safe_load(dump_config(config)), "dump") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.base_lr=banana", "optim.base_lr: .*number.*'banana'"),
        ("optim.base_lr=-1", "optim.base_lr: .*greater than 0"),
        ("optim.base_lrr=1", "no such setting; did you mean optim.base_lr"),
        ("dat.path=x", "no such setting; did you mean data"),
        ("model.variant=X/16", "model.variant must be .*'X/16'"),
        ("train.precision=float64", "train.precision: .*'float32'"),
        ("optim.accumulate_steps=7", "must divide data.global_batch_size=256, for example"),
        ("optim=3", "optim: "),
        ("optim.base_lr", "section.key=value"),
        ("=3", "section.key=value"),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_do(recipe, override, message):
    with pytest.raises(SettingsError, match=message):
        load_config(recipe("seed: 1"), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "must hold settings"),
        ("data: {resize: none, augment: {resized_crop_min_area: 0.2}}", "data.resize=squash or"),
        ("base: recipe.yaml", "itself"),
        ("base: nowhere.yaml", "cannot read the recipe"),
    ],
)
def test_a_wrong_recipe_file_is_named(recipe, text, message):
    with pytest.raises(SettingsError, match=message):
        load_config(recipe(text))


def test_only_settings_that_change_the_training_count_as_differences():
    old = Config()
    free = old.model_copy(update={"checkpoint": old.checkpoint.model_copy(update={"keep": 9})})
    other = old.model_copy(update={"seed": 3})
    assert training_differences(old, free) == []
    assert training_differences(old, other) == ["seed: 0 -> 3"]


def test_every_setting_has_a_meaning_and_a_default_that_is_the_config_s():
    for setting in all_settings():
        assert setting.doc
        assert value_of(Config(), setting.key) == setting.default


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_and_say_their_command(name):
    from jobs.cli import find_recipe

    path = find_recipe(name)
    load_config(path)
    header = path.read_text()
    assert re.search(rf"# Command: +vit train {name}", header)
    if name not in ("digits", "image_folder"):  # those that follow a paper
        for fact in ("Expected", "Cost", "Here"):
            assert re.search(rf"^# {fact}: +\S", header, re.MULTILINE), fact
