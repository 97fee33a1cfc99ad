"""Distributions and seeds of the initial weights.

The seed of each variable is a hash of (seed, path of the variable). A weight therefore depends
neither on the order in which layers are built nor on the rest of the model, and every process
creates identical weights without communication.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

from keras import initializers


@dataclass(frozen=True)
class Draw:
    """A distribution and the seed of the run; `at(path)` gives the initializer of one variable.

    Attributes:
      kind: zeros; normal, with standard deviation `scale`; uniform on [-scale, scale]; glorot
        (Glorot and Bengio 2010, uniform); lecun (LeCun et al. 1998, truncated normal).
      scale: For normal and uniform. The others derive it from the shape of the variable.
      seed: Seed of the run.
    """

    kind: Literal["zeros", "normal", "uniform", "glorot", "lecun"]
    scale: float = 0.0
    seed: int = 0

    def at(self, path: str) -> initializers.Initializer:
        """The initializer of the variable with this path, such as `vit/norm/gamma`."""
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
    """The distributions for the parts of a Vision Transformer. All other biases start at zero."""

    patches: Draw
    token: Draw
    positions: Draw
    attention: Draw
    mlp: Draw
    mlp_bias: Draw
    hidden: Draw  # layers of the head before the classifier
    classifier: Draw


def vit_weights(seed: int, *, width: int) -> InitialWeights:
    """The initial weights of ViT in big_vision (github.com/google-research/big_vision, models/vit).

    The classifier starts at zero, so the initial loss is log(num_classes) for every seed.
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
    """The default initial weights of the layers in Keras 3.

    Keras 3 computes the fans of its three-dimensional attention kernels as this package does for
    two-dimensional ones. (Keras 2 treated the first dimension as a receptive field, and therefore
    started with smaller queries, keys and values.)
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
    """A 31-bit seed hashed from the seed of the run and the path of a variable."""
    return hash_path(f"{seed}/{path}")[0]


def hash_path(path: str) -> tuple[int, int]:
    """Two independent 31-bit hashes of a path, equal on all machines and versions."""
    digest = hashlib.sha256(path.encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1, int.from_bytes(digest[4:8], "big") >> 1
