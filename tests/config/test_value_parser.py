"""A value is parsed according to the type of its setting."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    load_config,
)
from pipeline.errors import SettingsError

# Integers and floats of the core schema of YAML 1.2, section 10.3.2, and of Python's underscores.
WHOLE = {"010": 10, "064": 64, "0": 0, "+12": 12, "0o7": 7, "0x3A": 58, "1e3": 1000, "1_000": 1000}
WHOLE |= {"2.0": 2, "12e0": 12}
REAL = {"1e-3": 1e-3, "0.": 0.0, "-0.0": 0.0, ".5": 0.5, "+12e03": 12000.0, "5.e-4": 5e-4}


@pytest.mark.parametrize(("text", "value"), WHOLE.items())
def test_whole_numbers_are_read_as_people_write_them(recipe, text, value):
    assert load_config(recipe(""), [f"seed={text}"]).seed == value
    assert load_config(recipe(f"seed: {text}")).seed == value
    assert load_config(recipe(f"seed: '{text}'")).seed == value


@pytest.mark.parametrize(("text", "value"), (WHOLE | REAL).items())
def test_real_numbers_are_read_as_people_write_them(recipe, text, value):
    assert load_config(recipe(""), [f"optim.weight_decay={text}"]).optim.weight_decay == value
    assert load_config(recipe(f"optim: {{weight_decay: {text}}}")).optim.weight_decay == value


NO_NUMBERS = [
    "true",
    "no",
    "12:30",
    "1:30:00",
    "1__0",
    "_1",
    "1_",
    "1 2",
    "0b1",
    "0x",
    "e3",
    "null",
]


@pytest.mark.parametrize("text", [*NO_NUMBERS, "null", "\u0663", "--1", "1,5"])
def test_what_is_no_number_is_refused(recipe, text):
    for key in ("seed", "optim.base_lr"):
        with pytest.raises(SettingsError, match=f"{key}: must be a (whole )?number. Received: "):
            load_config(recipe(""), [f"{key}={text}"])


@pytest.mark.parametrize("text", ["inf", "-inf", ".inf", "nan", ".NaN", "Infinity", "1e400"])
def test_numbers_that_are_not_finite_are_refused_everywhere(recipe, text):
    for key in ("seed", "optim.clip_norm", "train.epochs", "data.augment.zoom", "train.max_steps"):
        with pytest.raises(SettingsError, match=f"{key}: must be finite"):
            load_config(recipe(""), [f"{key}={text}"])
        *sections, name = key.split(".")
        nested = f"{name}: {text}"
        for section in reversed(sections):
            nested = f"{section}: {{{nested}}}"
        with pytest.raises(SettingsError, match=f"{key}: must be finite"):
            load_config(recipe(nested))


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (Config, {"seed": True}),
        (Config, {"seed": float("nan")}),
        (Config, {"seed": 1.5}),
        (OptimConfig, {"base_lr": True}),
        (OptimConfig, {"base_lr": float("inf")}),
        (OptimConfig, {"base_lr": 10**400}),
        (DataConfig, {"antialias": 1}),
        (DataConfig, {"antialias": "yes"}),
        (DataConfig, {"path": 5}),
        (RunConfig, {"dir": b"x"}),
        (ModelConfig, {"pool": 3}),
    ],
)
def test_values_of_another_type_are_refused_from_python_too(section, values):
    with pytest.raises(ValidationError, match=r"must be|Input should be"):
        section(**values)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("TRUE", True)])
def test_true_and_false_are_read_in_the_cases_of_yaml_1_2(recipe, text, value):
    assert load_config(recipe(""), [f"train.deterministic={text}"]).train.deterministic is value
    assert load_config(recipe(f"train: {{recompute: {text}}}")).train.recompute is value


@pytest.mark.parametrize("text", ["yes", "on", "1", "0", "t", "null"])
def test_other_words_for_true_and_false_are_refused(recipe, text):
    with pytest.raises(SettingsError, match=r"train.recompute: must be true or false"):
        load_config(recipe(""), [f"train.recompute={text}"])


def test_lists_are_written_as_in_yaml_and_one_name_needs_no_brackets(recipe):
    path = recipe("")
    read = load_config(path, ["optim.freeze=[vit/a/*, 'b']", "monitor.profile_steps=[010,1e2]"])
    assert read.optim.freeze == ("vit/a/*", "b")
    assert read.monitor.profile_steps == (10, 100)
    assert load_config(path, ["train.callbacks=my:make"]).train.callbacks == ("my:make",)
    assert load_config(recipe("optim: {freeze: [0, no]}")).optim.freeze == ("0", "no")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("monitor.profile_steps=1,5", "must be a list in brackets"),
        ("monitor.profile_steps=[1]", "must be a list of 2"),
        ("monitor.profile_steps=[1,true]", "must be a whole number"),
        ("optim.freeze=[a", "not valid YAML"),
        ("optim.freeze=[[a]]", "must be text"),
    ],
)
def test_what_is_no_list_is_refused(recipe, override, message):
    with pytest.raises(SettingsError, match=message):
        load_config(recipe(""), [override])


@pytest.mark.parametrize("key", ["run.dir", "data.path", "data.index_path", "model.pretrained"])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/x", "s3:// addresses are not supported. Mount the storage"),
        ("s3:/bucket/x", "s3:// addresses are not supported. Mount the storage"),
        ("gs://b", "Mount the storage"),
        ("https://host/file.npz", "Download the file and give its path"),
        ("file:///data/x", "a path without file://"),
    ],
)
def test_addresses_are_refused_for_every_path(recipe, key, url, message):
    with pytest.raises(SettingsError, match=f"{key}: must be .*{message}"):
        load_config(recipe(""), [f"{key}={url}"])
    section, _, name = key.partition(".")
    with pytest.raises(SettingsError, match=f"{key}: must be .*{message}"):
        load_config(recipe(f"{section}: {{{name}: '{url}'}}"))


def test_a_path_with_a_colon_is_no_address(recipe):
    assert load_config(recipe(""), ["run.dir=runs/12:30//a"]).run.dir == "runs/12:30//a"


def test_typed_values_are_taken_as_they_are():
    assert TrainConfig(epochs=3, max_steps=None).epochs == 3.0
    assert OptimConfig(freeze=["a"]).freeze == ("a",)


WORDS = ["0", "no", "off", "010", "1e3", "2024-06-01", "12:30", "true", "Null-1", "a #3", "{a"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("5.e-4", 5e-4), ("+2e2", 200.0), ("1", 1.0)],
)
def test_numbers_are_read_as_people_write_them(recipe, text, value):
    path = recipe(f"optim: {{base_lr: {text}}}")
    assert load_config(path).optim.base_lr == value
    assert load_config(path, [f"optim.base_lr={text}"]).optim.base_lr == value


@pytest.mark.parametrize("text", [*WORDS, "[b", "'quoted'", '"', " blank ", "null", "~x", "a: b"])
def test_text_from_the_command_line_is_taken_as_typed(recipe, text):
    config = load_config(recipe(""), [f"data.tfrecord_image_key={text}"])
    assert config.data.tfrecord_image_key == text


@pytest.mark.parametrize("text", [w for w in WORDS if w not in ("a #3", "{a")])
def test_text_from_a_file_is_taken_as_written(recipe, text):
    # Under YAML 1.1 some of these are numbers, booleans, dates and times.
    assert load_config(recipe(f"run: {{dir: {text}}}")).run.dir == text
    assert load_config(recipe(f"run: {{dir: '{text}'}}")).run.dir == text


def test_null_means_null_if_the_setting_allows_it(recipe):
    path = recipe("run: {dir: here}\nmodel: {pool: mean}\ndata: {path: 'null'}")
    config = load_config(path, ["run.dir=null", "model.pool=null"])
    assert (str(config.run_dir), config.model.pool) == ("runs/recipe", None)
    assert config.data.path == "null"
    assert load_config(path, ["run.dir=./null"]).run.dir == "./null"


def test_a_leading_tilde_is_the_home_folder(recipe):
    config = load_config(recipe("data: {path: ~/photos}"), ["run.dir=~/runs/1"])
    assert (config.data.path, config.run.dir) == (f"{Path.home()}/photos", f"{Path.home()}/runs/1")


def test_text_that_starts_like_a_number_stays_text(recipe):
    path = recipe("data: {path: 1e3photos, source: image_folder}")
    assert load_config(path).data.path == "1e3photos"


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("0", 0), ("null", None)])
def test_a_choice_of_numbers_is_read_from_a_file_and_from_the_command_line(recipe, text, value):
    file = recipe(f"data: {{first_label: {text}}}")
    assert load_config(file).data.first_label == value
    assert load_config(recipe(""), [f"data.first_label={text}"]).data.first_label == value
    for wrong in ("2", "one"):
        with pytest.raises(SettingsError, match=r"data\.first_label: must be 0 or 1"):
            load_config(file, [f"data.first_label={wrong}"])
