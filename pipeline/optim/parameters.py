"""Selects trainable parameters, weight decay and learning-rate factors by path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import keras

from pipeline.config import OptimConfig
from pipeline.errors import SettingsError

# The parameters of the classifier, as named in `pipeline.model.vit`.
_CLASSIFIER = "vit/head/*"
_BLOCK = re.compile(r"/block_(\d+)/")
_EMBEDDING = re.compile(r"/(patch_embedding|class_token|position_embedding)/")


def decays(variable: keras.Variable) -> bool:
    """Whether weight decay applies to a variable. It applies to matrices only.

    Biases, norms, the class token and the position embedding do not decay.
    """
    return variable.path.endswith("kernel")


def freeze(variables: Sequence[keras.Variable], config: OptimConfig) -> None:
    """Freezes the variables that `optim.freeze` and `optim.linear_probe` name.

    Args:
      variables: All variables of a model.
      config: The two settings are used.

    Raises:
      SettingsError: A pattern matches no variable, or no variable remains trainable.
    """
    trained = set(trained_paths([v.path for v in variables], config))
    for variable in variables:
        if variable.path not in trained:
            variable.trainable = False


def trained_paths(paths: Sequence[str], config: OptimConfig) -> list[str]:
    """The paths that remain trainable with `optim.freeze` and `optim.linear_probe`.

    Raises:
      SettingsError: A pattern matches no path, or no path remains trainable.
    """
    for pattern in config.freeze:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise SettingsError(
                f"optim.freeze: {pattern!r} matches no parameter. `vit train RECIPE --dry-run` "
                f"lists them, from {paths[0]} to {paths[-1]}; * matches any text"
            )
    trained = [
        path
        for path in paths
        if (fnmatchcase(path, _CLASSIFIER) or not config.linear_probe)
        and not any(fnmatchcase(path, pattern) for pattern in config.freeze)
    ]
    if not trained:
        raise SettingsError(
            "optim.freeze and optim.linear_probe leave nothing to train. Freeze less"
        )
    return trained


def learning_rate_factors(paths: Sequence[str], layer_decay: float | None) -> list[float]:
    """The factors by which the learning rate of each parameter is multiplied.

    With layer-wise decay d and n blocks, the factor is 1 for the last norm and the head, d for the
    last block, d^n for the first block, and d^(n+1) for the embeddings.

    Args:
      paths: Paths of all variables of the model, such as `vit/block_3/mlp/out/kernel`. They
        determine the depth.
      layer_decay: d, or None for factors of 1.

    References:
      Bao et al. 2021 (BEiT), https://arxiv.org/abs/2106.08254, appendix.
      Clark et al. 2020 (ELECTRA), https://arxiv.org/abs/2003.10555, who introduced it.
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
