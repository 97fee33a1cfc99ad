"""Settings from files and the command line, validated and saved."""

import re
from pathlib import Path

import pytest
import yaml

from pipeline.config import (
    Config,
    dump_config,
    load_config,
    parse_config,
)

SHIPPED = ["digits", "keras_example", "cifar10", "cifar100", "image_folder"]
WORDS = ["0", "no", "off", "010", "1e3", "2024-06-01", "12:30", "true", "Null-1", "a #3", "{a"]


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_its_base(recipe):
    recipe("seed: 1\ndata: {image_size: 8, global_batch_size: 4}", "base.yaml")
    path = recipe("base: base.yaml\ndata: {image_size: 16}")
    config = load_config(path, ["data.global_batch_size=8", "data.global_batch_size=12"])
    assert (config.seed, config.data.image_size, config.data.global_batch_size) == (1, 16, 12)


def test_the_run_folder_is_named_after_the_recipe(recipe):
    path = recipe("seed: 1", "mine.yaml")
    assert str(load_config(path).run_dir) == "runs/mine"
    assert str(load_config(path, ["run.dir=elsewhere"]).run_dir) == "elsewhere"


def test_any_text_can_be_saved_and_read_back(recipe, tmp_path):
    for text in [*WORDS, "null", "~", "", " blank ", "s: t", "- x", "&a", "\u00e9", "a\nb"]:
        config = Config().model_copy(update={"run": Config().run.model_copy(update={"dir": text})})
        recorded = tmp_path / "config.yaml"
        recorded.write_text(dump_config(config))
        expected = {"": "runs/config", "~": str(Path.home())}.get(text, text)
        assert load_config(recorded).run.dir == expected


def test_resolved_settings_can_be_read_back(recipe):
    text = "data: {augment: {flip: true}}\ntrain: {callbacks: ['a:b']}\noptim: {epsilon: 1e-12}"
    config = load_config(recipe(text), ["monitor.profile_steps=[3,4]", "optim.clip_norm=null"])
    # As a run folder and a ConfigMap have them, and as any other YAML parser reads them.
    assert load_config(recipe(dump_config(config), "config.yaml")) == config
    assert parse_config(yaml.safe_load(dump_config(config)), "dump") == config


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_and_document_their_command(name):
    from pipeline.recipes import find_recipe

    path = find_recipe(name)
    load_config(path)
    header = path.read_text()
    assert re.search(rf"# Command: +vit train {name}", header)
    if name not in ("digits", "image_folder"):  # those that follow a paper
        for fact in ("Expected", "Cost", "Here"):
            assert re.search(rf"^# {fact}: +\S", header, re.MULTILINE), fact
