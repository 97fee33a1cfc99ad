"""Which parameters are trained, which of them decay, and at what part of the learning rate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import keras

from pipeline.config import OptimConfig
from pipeline.errors import SettingsError

# The classifier's parameters, as `pipeline.model.vit` names them.
_CLASSIFIER = "vit/head/*"
_BLOCK = re.compile(r"/block_(\d+)/")
_EMBEDDING = re.compile(r"/(patch_embedding|class_token|position_embedding)/")


def decays(variable: keras.Variable) -> bool:
    """Whether weight decay pulls this variable: matrices do.

    Biases and norms do not, nor what is added to the tokens: class token and position embedding.
    """
    return variable.path.endswith("kernel")


def freeze(variables: Sequence[keras.Variable], config: OptimConfig) -> None:
    """Marks what `optim.freeze` and `optim.linear_probe` name as not trainable.

    Args:
      variables: All of a model's.
      config: The two settings are read.

    Raises:
      SettingsError: A pattern fits no variable, or nothing is left to train.
    """
    trained = set(trained_paths([v.path for v in variables], config))
    for variable in variables:
        if variable.path not in trained:
            variable.trainable = False


def trained_paths(paths: Sequence[str], config: OptimConfig) -> list[str]:
    """Paths of the variables that `optim.freeze` and `optim.linear_probe` leave to train.

    Raises:
      SettingsError: A pattern fits no path, or nothing is left to train.
    """
    for pattern in config.freeze:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise SettingsError(
                f"optim.freeze: {pattern!r} fits no parameter; `vit train RECIPE --dry-run` lists "
                f"them, from {paths[0]} to {paths[-1]}, and * stands for anything"
            )
    trained = [
        path
        for path in paths
        if (fnmatchcase(path, _CLASSIFIER) or not config.linear_probe)
        and not any(fnmatchcase(path, pattern) for pattern in config.freeze)
    ]
    if not trained:
        raise SettingsError(
            "optim.freeze and optim.linear_probe leave nothing to train: freeze less"
        )
    return trained


def rate_factors(paths: Sequence[str], layer_decay: float | None) -> list[float]:
    """What the learning rate of each parameter is multiplied with.

    Layer-wise decay after Bao et al. 2021 (BEiT, https://arxiv.org/abs/2106.08254, appendix; first
    in ELECTRA, https://arxiv.org/abs/2003.10555): 1 for the last norm and the head, d for the last
    of n blocks, d^n for the first, d^(n+1) for what makes tokens.

    Args:
      paths: Of all the model's variables, such as `vit/block_3/mlp/out/kernel`, since the depth is
        seen from them.
      layer_decay: d, or None for 1 everywhere.
    """
    if layer_decay is None:
        return [1.0] * len(paths)
    blocks = [int(found[1]) if (found := _BLOCK.search(path)) else None for path in paths]
    depth = 1 + max((block for block in blocks if block is not None), default=-1)

    def factor(path: str, block: int | None) -> float:
        if block is not None:
            return float(layer_decay ** (depth - block))
        return float(layer_decay ** (depth + 1)) if _EMBEDDING.search(path) else 1.0

    return [factor(path, block) for path, block in zip(paths, blocks, strict=True)]
