"""A setting that does not exist suggests the one that was meant."""

import pytest

from pipeline.config import all_settings, load_config
from pipeline.config.suggestions import OTHER_NAMES, suggest_setting
from pipeline.errors import SettingsError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lr", "optim.base_lr"),
        ("optim.lr", "optim.base_lr"),
        ("train.learning_rate", "optim.base_lr"),
        ("optim.bse_lr", "optim.base_lr"),
        ("batch_size", "data.global_batch_size"),
        ("train.batch-size", "data.global_batch_size"),
        ("epochs", "train.epochs"),
        ("num_epochs", "train.epochs"),
        ("data.epochs", "train.epochs"),
        ("weight_decay", "optim.weight_decay"),
        ("img_size", "data.image_size"),
        ("model.image_size", "data.image_size"),
        ("output", "run.dir"),
        ("output_dir", "run.dir"),
        ("run.output", "run.dir"),
        ("dat.path", "data.path"),
        ("train.precison", "train.precision"),
        ("dataa", "data"),
    ],
)
def test_the_setting_that_was_meant_is_suggested(recipe, written, meant):
    with pytest.raises(SettingsError, match=f"no such setting; did you mean {meant}\\?"):
        load_config(recipe(""), [f"{written}=3"])


def test_what_resembles_no_setting_is_sent_to_the_help(recipe):
    with pytest.raises(SettingsError, match="zzz: no such setting; `vit train --help`"):
        load_config(recipe(""), ["zzz=3"])


def test_other_programs_names_lead_to_settings_that_exist():
    known = {setting.key for setting in all_settings()}
    for key, names in OTHER_NAMES.items():
        assert key in known
        for name in names.split():
            assert name not in known
            assert suggest_setting(name) == key
