"""Settings on the command line."""

import pytest

from pipeline.config import (
    load_config,
)
from pipeline.errors import SettingsError


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
        ("optim=3", "optim: is a section; set one.* for example optim.base_lr"),
        ("run=foo", "run: is a section; set one.* for example run.dir.*'foo'"),
        ("run.dir=", "run.dir= has no value"),
        ("base=digits.yaml", "only a recipe file can have `base:`"),
        ("optim.base_lr.x=3", "optim.base_lr: must be a number"),
        ("data.augment={flip: true", "not valid YAML"),
        ("optim.base_lr", "section.key=value"),
        ("=3", "section.key=value"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(recipe, override, message):
    with pytest.raises(SettingsError, match=f"^on the command line: .*{message}"):
        load_config(recipe("seed: 1"), [override])


def test_a_duplicate_key_in_a_value_is_refused(recipe):
    with pytest.raises(SettingsError, match=r"on the command line: .*flip appears twice"):
        load_config(recipe(""), ["data.augment={flip: true, flip: false}"])
