"""The table of model variants, and the overrides that the settings apply to a variant.

References:
  Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv 2010.11929.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.config import ModelConfig
from pipeline.errors import SettingsError


@dataclass(frozen=True)
class Architecture:
    """The shape of a Vision Transformer, except for image size and number of classes.

    Attributes:
      stem: How tokens are made: by a linear patch embedding or by convolutions.
      head_size: Size of the queries, keys and values of a head; usually width / num_heads.
      dropout: Rate after both layers of the MLP in each block.
      dropout_everywhere: Whether the same rate also applies after the position embedding and the
        output layer of the attention, as in the paper (appendix B.1).
      stochastic_depth: Rate in the last block. The rate grows linearly from 0 in the first block.
      head_dims: Units of the GELU layers between the encoder and the classifier.
      head_dropout: Rate before each layer of the head.
      mlp_activates_output: Whether a GELU also follows the second layer of the MLP.
      initial: Scheme of the initial weights: that of big_vision, or the defaults of Keras.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    head_size: int
    mlp_dim: int
    stem: Literal["patches", "convolutions"] = "patches"
    pool: Literal["token", "mean", "flatten"] = "token"
    positions: Literal["learned", "sincos2d"] = "learned"
    gelu: Literal["exact", "tanh"] = "exact"
    pre_logits: int = 0
    dropout: float = 0.0
    dropout_everywhere: bool = True
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    head_dims: tuple[int, ...] = ()
    head_dropout: float = 0.0
    mlp_activates_output: bool = False
    initial: Literal["vit", "keras"] = "vit"

    @property
    def uses_randomness(self) -> bool:
        """Whether training uses dropout or stochastic depth, and so needs a seed at each step."""
        rates = self.dropout, self.attention_dropout, self.stochastic_depth, self.head_dropout
        return any(rate > 0 for rate in rates)

    def num_tokens(self, image_size: int) -> int:
        """The number of tokens per image, including the class token."""
        return (image_size // self.patch_size) ** 2 + (self.pool == "token")

    def block_stochastic_depth(self, block: int) -> float:
        """The rate of one block. The last block has the full rate, even if it is the only one."""
        return self.stochastic_depth * (block / (self.depth - 1) if self.depth > 1 else 1.0)


# Sizes that are combined with a patch size, as in "S/16". B and L: Dosovitskiy et al. 2021, table
# 1. Ti and S: Touvron et al. 2021 (DeiT, arXiv 2012.12877, table 1), named as in Steiner et al.
# 2021 ("How to train your ViT?", arXiv 2106.10270, table 2).
# fmt: off
#                                P  width depth heads size  MLP
SIZES = {
    "Ti": Architecture(16,  192,   12,    3,   64,  768),
    "S":  Architecture(16,  384,   12,    6,   64, 1536),
    "B":  Architecture(16,  768,   12,   12,   64, 3072),
    "L":  Architecture(16, 1024,   24,   16,   64, 4096),
}
# fmt: on

NAMED = {
    # For the 8 x 8 digits of scikit-learn: 16 patches of 2 x 2 pixels, 136,522 parameters.
    "digits": Architecture(2, 64, 4, 4, 16, 128, pool="mean"),
    # For CIFAR at 32 px, 2.7 M parameters: the plain ViT of Lee et al. 2021 ("Vision Transformer
    # for Small-Size Datasets", arXiv 2112.13492; github.com/aanna0701/SPT_LSA_ViT), with its class
    # token. The original has no biases on query, key and value, and an epsilon of 1e-5.
    "cifar": Architecture(4, 192, 9, 12, 16, 384),
    # K. Salama's Keras example, "Image classification with Vision Transformer", keras.io 2021, at
    # 72 px: head_size equals the width, a GELU follows both layers of the MLP, and the head gets
    # all tokens. With 100 classes, the head has 21.1 M of the 21.8 M parameters.
    "keras_example": Architecture(
        6,
        64,
        8,
        4,
        64,
        128,
        pool="flatten",
        dropout=0.1,
        dropout_everywhere=False,
        attention_dropout=0.1,
        head_dims=(2048, 1024),
        head_dropout=0.5,
        mlp_activates_output=True,
        initial="keras",
    ),
}


def architecture(config: ModelConfig) -> Architecture:
    """Applies the settings to the variant they name.

    A changed width scales the MLP by the same ratio. A changed width or number of heads changes
    the head size. `model.dropout` also replaces the rate of the head, so that 0 disables dropout.

    Raises:
      SettingsError: The settings are inconsistent.
    """
    size, slash, patch = config.variant.partition("/")
    base = replace(SIZES[size], patch_size=int(patch)) if slash else NAMED[size]
    width = config.width or base.width
    num_heads = config.num_heads or base.num_heads
    if base.num_heads * base.head_size == base.width:
        head_size = _divide_heads(width, num_heads)
    else:
        head_size = width * base.head_size // base.width
    if config.positions == "sincos2d" and (width % 4 or width < 8):
        raise SettingsError(
            "model.positions=sincos2d needs a model.width that is a multiple of 4 and at least 8. "
            f"Received: {width}"
        )
    patch_size = config.patch_size or base.patch_size
    if config.stem == "convolutions":
        _check_stem(patch_size, width)
    if config.dropout is not None:
        in_head = config.dropout if base.head_dims else 0.0
        base = replace(base, dropout=config.dropout, head_dropout=in_head)
    if config.attention_dropout is not None:
        base = replace(base, attention_dropout=config.attention_dropout)
    return replace(
        base,
        patch_size=patch_size,
        width=width,
        depth=config.depth or base.depth,
        num_heads=num_heads,
        head_size=head_size,
        mlp_dim=config.mlp_dim or base.mlp_dim * width // base.width,
        stem=config.stem,
        pool=config.pool or base.pool,
        positions=config.positions,
        gelu=config.gelu,
        pre_logits=config.pre_logits,
        stochastic_depth=config.stochastic_depth,
    )


def check_patches(image_size: int, patch_size: int) -> None:
    """Raises SettingsError if the image size is not a multiple of the patch size."""
    if image_size % patch_size:
        below = image_size // patch_size * patch_size
        fitting = [str(size) for size in (below, below + patch_size) if size]
        raise SettingsError(
            f"data.image_size must be a multiple of the model's patch size {patch_size}, for "
            f"example {' or '.join(fitting)}. Received: {image_size}"
        )


def _check_stem(patch_size: int, width: int) -> None:
    if patch_size < 2 or patch_size & (patch_size - 1):
        raise SettingsError(
            "model.stem=convolutions repeatedly halves the image, so model.patch_size must be "
            f"2, 4, 8 or a larger power of two. Received: {patch_size}"
        )
    if width % (patch_size // 2):
        raise SettingsError(
            f"model.width must be a multiple of {patch_size // 2} for model.stem=convolutions with "
            f"patches of {patch_size} pixels. Received: {width}"
        )


def _divide_heads(width: int, num_heads: int) -> int:
    if width % num_heads:
        fitting = [n for n in range(1, width + 1) if width % n == 0]
        nearest = sorted(sorted(fitting, key=lambda n: abs(n - num_heads))[:3])
        raise SettingsError(
            f"model.num_heads must divide model.width={width}, for example "
            f"{', '.join(map(str, nearest))}. Received: {num_heads}"
        )
    return width // num_heads
