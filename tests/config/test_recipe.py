import re
from pathlib import Path

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


WORDS = ["0", "no", "off", "010", "1e3", "2024-06-01", "12:30", "true", "Null-1", "a #3", "{a"]


@pytest.mark.parametrize("text", [*WORDS, "[b", "'quoted'", '"', " blank ", "null", "~x", "a: b"])
def test_a_text_setting_takes_the_text_of_the_command_line_as_typed(recipe, text):
    config = load_config(recipe(""), [f"data.tfrecord_image_key={text}"])
    assert config.data.tfrecord_image_key == text


@pytest.mark.parametrize("text", [w for w in WORDS if w not in ("a #3", "{a")])
def test_a_text_setting_takes_the_text_of_a_file_as_written(recipe, text):
    # Under YAML 1.1 some of these are numbers, booleans, dates and times.
    assert load_config(recipe(f"run: {{dir: {text}}}")).run.dir == text
    assert load_config(recipe(f"run: {{dir: '{text}'}}")).run.dir == text


def test_null_is_null_where_a_setting_allows_it_and_a_folder_of_that_name_can_be_given(recipe):
    path = recipe("run: {dir: here}\nmodel: {pool: mean}\ndata: {path: 'null'}")
    config = load_config(path, ["run.dir=null", "model.pool=null"])
    assert (str(config.run_dir), config.model.pool) == ("runs/recipe", None)
    assert config.data.path == "null"
    assert load_config(path, ["run.dir=./null"]).run.dir == "./null"


def test_every_text_setting_survives_the_file_that_records_it(recipe, tmp_path):
    for text in [*WORDS, "null", "~", "", " blank ", "s: t", "- x", "&a", "\u00e9", "a\nb"]:
        config = Config().model_copy(update={"run": Config().run.model_copy(update={"dir": text})})
        recorded = tmp_path / "config.yaml"
        recorded.write_text(dump_config(config))
        expected = {"": "runs/config", "~": str(Path.home())}.get(text, text)
        assert load_config(recorded).run.dir == expected


def test_a_value_may_have_a_tag_of_its_type(recipe):
    text = "seed: !!int 7\nrun: !!map {dir: !!str 7}\noptim: {clip_norm: !!null null}"
    config = load_config(recipe(f"{text}\ntrain: {{deterministic: !!bool true}}"))
    assert (config.seed, config.run.dir, config.optim.clip_norm) == (7, "7", None)
    assert config.train.deterministic is True


def test_a_folder_in_the_home_folder_can_be_given_as_in_a_shell(recipe):
    config = load_config(recipe("data: {path: ~/photos}"), ["run.dir=~/runs/1"])
    assert (config.data.path, config.run.dir) == (f"{Path.home()}/photos", f"{Path.home()}/runs/1")


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
    text = "data: {augment: {flip: true}}\ntrain: {callbacks: ['a:b']}\noptim: {epsilon: 1e-12}"
    config = load_config(recipe(text), ["monitor.profile_steps=[3,4]", "optim.clip_norm=null"])
    # As a run folder and a ConfigMap have them, and as any other YAML parser reads them.
    assert load_config(recipe(dump_config(config), "config.yaml")) == config
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
        ("optim=3", "optim: is a section of settings.* for example optim.base_lr"),
        ("run=foo", "run: is a section of settings.* for example run.dir.*'foo'"),
        ("run.dir=", "run.dir= has no value"),
        ("base=digits.yaml", "a recipe file names in `base:`"),
        ("optim.base_lr.x=3", "optim.base_lr: must be a number"),
        ("data.augment={flip: true", "not valid YAML"),
        ("optim.base_lr", "section.key=value"),
        ("=3", "section.key=value"),
    ],
)
def test_a_wrong_setting_is_named_with_what_to_do(recipe, override, message):
    with pytest.raises(SettingsError, match=f"^on the command line: .*{message}"):
        load_config(recipe("seed: 1"), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("seed: 1\noptim:\n  base_lr: !!float x", "line 3: 'x' is not of the type !!float"),
        ("seed: !!int abc", "line 1: 'abc' is not of the type !!int"),
        ("seed: !!int ''", "line 1: '' is not of the type !!int"),
        ("train: {deterministic: !!bool maybe}", "'maybe' is not of the type !!bool"),
        ("seed: 1\nrun: {dir: !!timestamp x}", "line 2: the tag !!timestamp is not supported"),
        ("train: {callbacks: [!!timestamp 2001-99-99]}", "the tag !!timestamp is not supported"),
        ("seed: !!binary x", "the tag !!binary is not supported"),
        ("run: {dir: !new/run }", "the tag !new/run is not supported.*quotes"),
        ("run: !!set {dir: x}", "the tag !!set is not supported"),
        ("seed: !!int [1]", "not valid YAML: expected a scalar node"),
        ("? !!str {a: b}\n: 1", "line 1: the name of a setting must be text"),
        ("- 1", "must hold settings"),
        ("[]", "must hold settings"),
        ("false", "must hold settings"),
        ("base: [a, b]", "line 1: base must name one YAML file"),
        ("seed: 1\n--- \nseed: 2", "line 2: not valid YAML"),
        ("data: {resize: none, augment: {resized_crop_min_area: 0.2}}", "data.resize=squash or"),
        ("base: recipe.yaml", "itself"),
        ("base: nowhere.yaml", "cannot read the recipe"),
    ],
)
def test_a_wrong_recipe_file_is_named(recipe, text, message):
    with pytest.raises(SettingsError, match=message):
        load_config(recipe(text))


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
    ("text", "overrides", "place"),
    [
        ("optim:\n  accumulate_steps: 7", ["seed=1"], "recipe.yaml, line 2: "),
        ("optim:\n  accumulate_steps: 2", ["optim.accumulate_steps=7"], "on the command line: "),
        ("optim: {accumulate_steps: 7}", ["data.global_batch_size=8"], "on the command line: "),
    ],
)
def test_settings_that_do_not_fit_each_other_are_said_where_one_of_them_stands(
    recipe, text, overrides, place
):
    with pytest.raises(SettingsError) as caught:
        load_config(recipe(text), overrides)
    assert f"{place}optim.accumulate_steps must divide" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("optim: {base_lr: 1}\noptim: {weight_decay: 1}", "optim is given twice, in lines 1 and 2"),
        ("seed: 1\ntrain:\n  epochs: 1\n  epochs: 2", "train.epochs is .* lines 3 and 4"),
        ("data:\n  augment:\n    flip: true\n    'flip': true", "augment.flip .* lines 3 and 4"),
        ("data: {image_size: 8, image_size: 9}", "data.image_size is given twice, in line 1"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_both_lines(recipe, text, lines):
    with pytest.raises(SettingsError, match=lines):
        load_config(recipe(text))


def test_a_key_that_is_given_twice_in_one_value_of_the_command_line_is_refused(recipe):
    with pytest.raises(SettingsError, match=r"on the command line: .*flip is given twice"):
        load_config(recipe(""), ["data.augment={flip: true, flip: false}"])


@pytest.mark.parametrize("section", ["train:", "train:\n  # epochs: 3\n", "train: {}"])
def test_a_section_without_settings_changes_none(recipe, section):
    recipe("train: {epochs: 7}", "base.yaml")
    assert load_config(recipe(section)) == load_config(recipe(""))
    assert load_config(recipe(f"base: base.yaml\n{section}")).train.epochs == 7


def test_null_for_a_section_is_refused_since_it_would_not_undo_the_base_s_settings(recipe):
    recipe("data: {augment: {flip: true}}", "base.yaml")
    with pytest.raises(SettingsError, match=r"data.augment: is a section .* Received: null"):
        load_config(recipe("base: base.yaml\ndata: {augment: null}"))


@pytest.mark.parametrize(
    ("text", "nested"),
    [
        ("data.image_size: 8", "`data: {image_size: 8}`"),
        ("data.augment.flip: true", "`data: {augment: {flip: true}}`"),
        ("data: {augment.flip: true}", "`data: {augment: {flip: true}}`"),
    ],
)
def test_a_dotted_key_in_a_file_is_explained_as_a_nested_one(recipe, text, nested):
    with pytest.raises(SettingsError, match="inside its section: write") as caught:
        load_config(recipe(text))
    assert nested in str(caught.value)
    load_config(recipe(nested.strip("`")))  # what it says to write is right


def test_merge_keys_and_aliases_of_yaml_work_and_loops_of_them_are_refused(recipe):
    path = recipe("data:\n  augment: &a {flip: true}\nbase:\n")
    assert load_config(path).data.augment.flip
    merged = recipe("data: {augment: {<<: {flip: true}, zoom: 0.1}}")
    assert load_config(merged).data.augment.flip
    with pytest.raises(SettingsError, match="an alias refers to what contains it"):
        load_config(recipe("data: &d {augment: *d}"))


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
