"""Weights before training: which distribution each is drawn from, and from which seed.

Every variable is drawn from its own seed, hashed from (seed, path of the variable). So a weight
depends neither on the order in which layers are built nor on what else is in the model, and every
process builds the same bits without talking to another.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

from keras import initializers


@dataclass(frozen=True)
class Draw:
    """A distribution and the run's seed; `at(path)` is the initializer of one variable.

    Attributes:
      kind: zeros; normal with standard deviation `scale`; uniform on [-scale, scale]; glorot
        (Glorot and Bengio 2010, uniform); lecun (LeCun et al. 1998, truncated normal).
      scale: Of normal and uniform; the others find theirs in the variable's shape.
      seed: Of the run.
    """

    kind: Literal["zeros", "normal", "uniform", "glorot", "lecun"]
    scale: float = 0.0
    seed: int = 0

    def at(self, path: str) -> initializers.Initializer:
        """The initializer for the variable with this path, such as `vit/norm/gamma`."""
        seed = variable_seed(self.seed, path)
        match self.kind:
            case "zeros":
                return initializers.Zeros()
            case "normal":
                return initializers.RandomNormal(stddev=self.scale, seed=seed)
            case "uniform":
                return initializers.RandomUniform(-self.scale, self.scale, seed=seed)
            case "glorot":
                return initializers.GlorotUniform(seed=seed)
            case "lecun":
                return initializers.LecunNormal(seed=seed)


ZEROS = Draw("zeros")


@dataclass(frozen=True)
class InitialWeights:
    """What each part of a Vision Transformer is drawn from; biases not named here are zero."""

    patches: Draw
    token: Draw
    positions: Draw
    attention: Draw
    mlp: Draw
    mlp_bias: Draw
    hidden: Draw  # layers of the head before the classifier
    classifier: Draw


def vit_weights(seed: int, *, width: int) -> InitialWeights:
    """The initial weights of big_vision's ViT (github.com/google-research/big_vision, models/vit).

    The classifier starts at zero, so the first loss is log(num_classes) whatever the seed.
    """
    glorot = Draw("glorot", seed=seed)
    lecun = Draw("lecun", seed=seed)
    return InitialWeights(
        patches=lecun,
        token=ZEROS,
        positions=Draw("normal", 1 / math.sqrt(width), seed),
        attention=glorot,
        mlp=glorot,
        mlp_bias=Draw("normal", 1e-6, seed),
        hidden=lecun,
        classifier=ZEROS,
    )


def keras_weights(seed: int) -> InitialWeights:
    """The initial weights that Keras 3's own layers have where none are asked for.

    Its attention counts the inputs and outputs of its three-dimensional kernels as we do of the
    flat ones. (Keras 2 took the first dimension for a convolution's receptive field, and so began
    with smaller queries, keys and values.)
    """
    glorot = Draw("glorot", seed=seed)
    return InitialWeights(
        patches=glorot,
        token=ZEROS,
        positions=Draw("uniform", 0.05, seed),
        attention=glorot,
        mlp=glorot,
        mlp_bias=ZEROS,
        hidden=glorot,
        classifier=glorot,
    )


def variable_seed(seed: int, path: str) -> int:
    """A 31-bit seed hashed from the run's seed and a variable's path."""
    return path_words(f"{seed}/{path}")[0]


def path_words(path: str) -> tuple[int, int]:
    """Two independent 31-bit numbers hashed from a path; the same on every machine and version."""
    digest = hashlib.sha256(path.encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1, int.from_bytes(digest[4:8], "big") >> 1
