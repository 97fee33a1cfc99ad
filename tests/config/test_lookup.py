"""All settings, by key."""

from pipeline.config import (
    Config,
    all_settings,
    training_differences,
    value_of,
)


def test_settings_that_may_change_are_not_training_differences():
    old = Config()
    free = old.model_copy(update={"checkpoint": old.checkpoint.model_copy(update={"keep": 9})})
    other = old.model_copy(update={"seed": 3})
    assert training_differences(old, free) == []
    assert training_differences(old, other) == ["seed: 0 -> 3"]


def test_every_setting_has_a_description_and_the_default_of_the_config():
    for setting in all_settings():
        assert setting.doc
        assert value_of(Config(), setting.key) == setting.default
