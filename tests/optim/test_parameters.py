import keras
import numpy as np
import pytest

from pipeline.config import OptimConfig
from pipeline.errors import SettingsError
from pipeline.optim.optimizer import AdamW
from pipeline.optim.parameters import freeze, learning_rate_factors
from tests.optim.test_optimizer import gradients, make_variables, update

PATHS = [
    "vit/patch_embedding/kernel",
    "vit/class_token/token",
    "vit/position_embedding/positions",
    "vit/block_0/attention/query/kernel",
    "vit/block_1/mlp/out/bias",
    "vit/block_2/norm_1/gamma",
    "vit/norm/beta",
    "vit/head/kernel",
]


def test_the_rate_of_each_block_is_a_fraction_of_the_next_ones():
    # BEiT's code: scale of layer i of n + 2 is d^(n + 1 - i), the tokens being layer 0 and the
    # norm and head layer n + 1; here n = 3.
    layers = [0, 0, 0, 1, 2, 3, 4, 4]
    np.testing.assert_allclose(learning_rate_factors(PATHS, 0.7), [0.7 ** (4 - i) for i in layers])
    assert learning_rate_factors(PATHS, None) == [1.0] * len(PATHS)


def test_every_parameter_of_a_network_has_the_factor_of_its_layer():
    from pipeline.config import ModelConfig
    from pipeline.model.vit import build_vit

    model = build_vit(ModelConfig(variant="Ti/8", depth=2), image_size=16, num_classes=3)
    paths = [v.path for v in model.variables]
    found = {}
    for path, factor in zip(paths, learning_rate_factors(paths, 0.5), strict=True):
        found.setdefault(path.split("/")[1], set()).add(factor)
    tokens = {key: {0.125} for key in ("patch_embedding", "class_token", "position_embedding")}
    blocks = {"block_0": {0.25}, "block_1": {0.5}}
    assert found == tokens | blocks | {"norm": {1.0}, "head": {1.0}}


def test_a_factor_of_the_rate_is_the_update_at_that_rate():
    # Variables named as those of the last but one of two blocks, against a rate of a quarter.
    layered = [keras.Variable(v.numpy(), name=v.name) for v in make_variables()]
    for variable, block in zip(layered, (0, 1), strict=True):
        variable._path = f"vit/block_{block}/{variable.name}"
    plain = make_variables()
    ours = AdamW(OptimConfig(layer_decay=0.5, weight_decay=0.1))
    whole = AdamW(OptimConfig(weight_decay=0.1))
    ours.build(layered)
    whole.build(plain)
    assert list(ours.learning_rate_factors.values()) == [0.25, 0.5]
    for step, values in enumerate(gradients(3)):
        update(ours, step, values, rate=0.01)
        update(whole, step, values, rate=0.0025)
    np.testing.assert_allclose(layered[0].numpy(), plain[0].numpy(), rtol=1e-6)
    assert np.abs(layered[1].numpy() - plain[1].numpy()).max() > 1e-3


def named(paths):
    variables = [keras.Variable(np.zeros(2, "float32")) for _ in paths]
    for variable, path in zip(variables, paths, strict=True):
        variable._path = path
    return variables


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, PATHS),
        ({"linear_probe": True}, PATHS[-1:]),
        ({"freeze": ["vit/block_[01]/*", "*/token"]}, [*PATHS[:1], PATHS[2], *PATHS[5:]]),
        ({"freeze": ["vit/[!h]*"]}, PATHS[-1:]),
    ],
)
def test_frozen_parameters_are_not_trained(settings, trained):
    variables = named(PATHS)
    freeze(variables, OptimConfig(**settings))
    assert [v.path for v in variables if v.trainable] == trained
    optimizer = AdamW(OptimConfig(**settings, ema_momentum=0.9))
    optimizer.build(variables)
    assert list(optimizer.averages) == list(optimizer.learning_rate_factors) == trained


def test_a_pattern_without_a_match_is_rejected():
    with pytest.raises(SettingsError, match=r"'vit/block_7/\*' matches no parameter"):
        freeze(named(PATHS), OptimConfig(freeze=["vit/block_7/*"]))


def test_training_without_trainable_parameters_is_rejected():
    with pytest.raises(SettingsError, match="leave nothing to train"):
        freeze(named(PATHS), OptimConfig(freeze=["*"]))
