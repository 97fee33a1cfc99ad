"""The `model` section."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import model_validator

from pipeline.config.section import Section, setting
from pipeline.config.value_parser import LocalPath, PluginName
from pipeline.printable import received

# The named variants. pipeline/model/architecture.py defines their sizes.
VARIANT_PATTERN = r"(Ti|S|B|L)/[1-9]\d{0,3}|digits|cifar|keras_example"


class ModelConfig(Section):
    """The Vision Transformer: a named variant, and changes to it."""

    variant: str = setting(
        "cifar",
        "Named architecture: Ti/16, S/16, B/16 or L/16 (with any patch size), digits, cifar or "
        "keras_example.",
    )
    patch_size: int | None = setting(
        None, "Side of a patch, in pixels. null: as in the variant.", ge=1, le=4096
    )
    width: int | None = setting(
        None, "Embedding dimension of a token. null: as in the variant.", ge=1, le=2**16
    )
    depth: int | None = setting(
        None, "Number of encoder blocks. null: as in the variant.", ge=1, le=1000
    )
    num_heads: int | None = setting(
        None, "Number of attention heads. null: as in the variant.", ge=1, le=1000
    )
    mlp_dim: int | None = setting(
        None, "Hidden units of the MLP in each block. null: as in the variant.", ge=1, le=2**18
    )
    stem: Literal["patches", "convolutions"] = setting(
        "patches",
        "How images become tokens. patches: a linear projection of each patch. convolutions: a "
        "stack of 3 x 3 convolutions with stride 2, which learns faster from few images.",
    )
    pool: Literal["token", "mean", "flatten"] | None = setting(
        None,
        "Input of the head. token: the class token. mean: the average of all tokens. flatten: all "
        "tokens concatenated. null: as in the variant.",
    )
    positions: Literal["learned", "sincos2d"] = setting("learned", "Position embedding.")
    gelu: Literal["exact", "tanh"] = setting(
        "exact", "Form of the GELU: exact, or the tanh approximation."
    )
    pre_logits: int = setting(
        0, "Units of a tanh layer before the classifier. 0: no such layer.", ge=0, le=2**16
    )
    dropout: float | None = setting(None, "Dropout rate. null: as in the variant.", ge=0, lt=1)
    attention_dropout: float | None = setting(
        None, "Dropout rate of the attention weights. null: as in the variant.", ge=0, lt=1
    )
    stochastic_depth: float = setting(
        0.0,
        "Stochastic depth (drop path): probability of skipping a branch of the last block. It "
        "increases linearly from 0 at the first block.",
        ge=0,
        lt=1,
    )

    builder: PluginName | None = setting(
        None,
        "Model of your own, as module:function. The settings above are not used then. null: the "
        "Vision Transformer.",
    )
    pretrained: LocalPath | None = setting(
        None,
        "Initial weights: a run folder (its best weights are used), or a published ViT as an .npz "
        "file, a .safetensors file or a folder. `vit pretrained list` lists them.",
    )

    @model_validator(mode="after")
    def _check_variant(self) -> ModelConfig:
        if not re.fullmatch(VARIANT_PATTERN, self.variant, re.ASCII):
            raise ValueError(
                "model.variant must be Ti/P, S/P, B/P or L/P with a patch size P, digits, cifar "
                f"or keras_example. Received: {received(self.variant)}"
            )
        return self
