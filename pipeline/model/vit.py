"""The Vision Transformer: the table of variants, and `build_vit`, which makes one of them.

References: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv 2010.11929.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
from keras import ops

from pipeline.config import ModelConfig
from pipeline.errors import SettingsError
from pipeline.model.functions import Tensor, dropout, gelu
from pipeline.model.initial import InitialWeights, keras_weights, vit_weights
from pipeline.model.layers import (
    ClassToken,
    EncoderBlock,
    Linear,
    Mlp,
    PatchEmbedding,
    PositionEmbedding,
    SelfAttention,
    Shape,
    layer_norm,
)

# What the paths of the classifier's variables begin with.
HEAD = "vit/head/"


@dataclass(frozen=True)
class Architecture:
    """All that decides a Vision Transformer's shape, apart from the images and the classes.

    Attributes:
      head_size: Length of a head's queries, keys and values; the width over the heads, as a rule.
      dropout: Rate after both layers of a block's MLP.
      dropout_everywhere: The same rate also after the position embedding and the attention's
        output layer, as the paper has it (appendix B.1).
      stochastic_depth: Rate of the last block; it grows linearly from 0 at the first.
      head_dims: Units of GELU layers between the encoder and the classifier.
      head_dropout: Rate before each layer of the head.
      mlp_activates_output: A GELU after the MLP's second layer too.
      initial: Scheme of the initial weights: big_vision's, or Keras's own defaults.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    head_size: int
    mlp_dim: int
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
    def draws_at_random(self) -> bool:
        """Whether training drops anything, and so needs a seed at every step."""
        rates = self.dropout, self.attention_dropout, self.stochastic_depth, self.head_dropout
        return any(rate > 0 for rate in rates)

    def num_tokens(self, image_size: int) -> int:
        """Tokens an image becomes, the class token included."""
        return (image_size // self.patch_size) ** 2 + (self.pool == "token")

    def block_stochastic_depth(self, block: int) -> float:
        """The rate of one block; the last one's is `stochastic_depth`, also where it is alone."""
        return self.stochastic_depth * (block / (self.depth - 1) if self.depth > 1 else 1.0)


# Sizes that take any patch size ("S/16"). B and L: Dosovitskiy et al. 2021, table 1; Ti and S:
# Touvron et al. 2021 (DeiT, arXiv 2012.12877, table 1), named as in Steiner et al. 2021 ("How to
# train your ViT?", arXiv 2106.10270, table 2).
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
    # Ours, for the 8 x 8 digits of scikit-learn: 16 patches of 2 x 2, 136,522 weights.
    "digits": Architecture(2, 64, 4, 4, 16, 128, pool="mean"),
    # For CIFAR at 32 px, 2.7 M weights: the plain ViT of Lee et al. 2021 ("Vision Transformer for
    # Small-Size Datasets", arXiv 2112.13492; github.com/aanna0701/SPT_LSA_ViT), with its class
    # token. Theirs has no biases on query, key and value, and an epsilon of 1e-5.
    "cifar": Architecture(4, 192, 9, 12, 16, 384),
    # K. Salama's Keras example, "Image classification with Vision Transformer", keras.io 2021, at
    # 72 px: heads as long as the tokens, GELU after both layers of the MLP, all tokens to the
    # head, which so holds 21.1 of the 21.8 million weights of its 100 classes.
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
    """The variant with what the settings change in it.

    A changed width carries the MLP along at the variant's ratio, and a changed width or number of
    heads the size of a head. `model.dropout` replaces the head's rate too, so that 0 means none.

    Raises:
      SettingsError: The settings do not fit together.
    """
    size, slash, patch_size = config.variant.partition("/")
    base = replace(SIZES[size], patch_size=int(patch_size)) if slash else NAMED[size]
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
    if config.dropout is not None:
        in_head = config.dropout if base.head_dims else 0.0
        base = replace(base, dropout=config.dropout, head_dropout=in_head)
    if config.attention_dropout is not None:
        base = replace(base, attention_dropout=config.attention_dropout)
    return replace(
        base,
        patch_size=config.patch_size or base.patch_size,
        width=width,
        depth=config.depth or base.depth,
        num_heads=num_heads,
        head_size=head_size,
        mlp_dim=config.mlp_dim or base.mlp_dim * width // base.width,
        pool=config.pool or base.pool,
        positions=config.positions,
        gelu=config.gelu,
        pre_logits=config.pre_logits,
        stochastic_depth=config.stochastic_depth,
    )


def check_patches(image_size: int, patch_size: int) -> None:
    """SettingsError where an image cannot be cut into patches."""
    if image_size % patch_size:
        below = image_size // patch_size * patch_size
        fitting = [str(size) for size in (below, below + patch_size) if size]
        raise SettingsError(
            f"data.image_size must be a multiple of the model's patch size {patch_size}, for "
            f"example {' or '.join(fitting)}. Received: {image_size}"
        )


def build_vit(
    config: ModelConfig, *, image_size: int, num_classes: int, dtype: str = "float32", seed: int = 0
) -> VisionTransformer:
    """Makes the model of the settings, with its variables.

    Args:
      config: The variant, and what to change in it.
      image_size: Height and width of the images.
      num_classes: Length of the logits.
      dtype: Name of a Keras dtype policy: float32, mixed_bfloat16 or mixed_float16.
      seed: Of the initial weights, which depend on nothing else.

    Raises:
      SettingsError: The settings do not fit together, or not to the images.
    """
    arch = architecture(config)
    check_patches(image_size, arch.patch_size)
    if num_classes < 1:
        raise SettingsError(f"The model needs at least one class. Received: {num_classes}")
    model = VisionTransformer(arch, image_size, num_classes, dtype=dtype, seed=seed)
    model.build((None, image_size, image_size, 3))
    return model


class VisionTransformer(keras.Model):
    """Images, floats [B, H, W, 3], to logits, float32 [B, classes].

    The classifier works in float32 under every dtype policy: logits in bfloat16 would have two or
    three digits, and the loss is a small difference of them.

    Args:
      arch: Shape of the network.
      image_size: Height and width of the images.
      num_classes: Length of the logits.
      dtype: Keras dtype policy.
      seed: Of the initial weights.
    """

    def __init__(
        self,
        arch: Architecture,
        image_size: int,
        num_classes: int,
        *,
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(name="vit", dtype=dtype)
        self.arch, self.image_size, self.num_classes = arch, image_size, num_classes
        weights = (
            vit_weights(seed, width=arch.width) if arch.initial == "vit" else keras_weights(seed)
        )
        side = image_size // arch.patch_size
        self.patch_embedding = PatchEmbedding(
            arch.patch_size, arch.width, kernel=weights.patches, name="patch_embedding", dtype=dtype
        )
        self.class_token = (
            ClassToken(token=weights.token, name="class_token", dtype=dtype)
            if arch.pool == "token"
            else None
        )
        self.position_embedding = PositionEmbedding(
            (side, side),
            arch.positions,
            positions=weights.positions,
            dropout=arch.dropout if arch.dropout_everywhere else 0.0,
            name="position_embedding",
            dtype=dtype,
        )
        self.blocks = [_block(arch, i, weights, dtype) for i in range(arch.depth)]
        self.norm = layer_norm("norm", dtype)
        self.head_layers = [
            Linear(units, kernel=weights.hidden, name=f"head_{i}", dtype=dtype)
            for i, units in enumerate(arch.head_dims)
        ]
        self.pre_logits = (
            Linear(arch.pre_logits, kernel=weights.hidden, name="pre_logits", dtype=dtype)
            if arch.pre_logits
            else None
        )
        self.head = Linear(num_classes, kernel=weights.classifier, name="head", dtype="float32")

    def build(self, input_shape: Shape) -> None:
        shape = tuple(input_shape)
        embedding = [self.patch_embedding, self.class_token, self.position_embedding]
        for layer in (*embedding, *self.blocks, self.norm):
            if layer is not None:
                layer.build(shape)
                shape = layer.compute_output_shape(shape)
        _, tokens, width = shape
        shape = (None, tokens * width if self.arch.pool == "flatten" else width)
        for layer in (*self.head_layers, self.pre_logits, self.head):
            if layer is not None:
                layer.build(shape)
                shape = layer.compute_output_shape(shape)

    def call(
        self, images: Tensor, *, dropout_seed: Tensor | None = None, training: bool = False
    ) -> Tensor:
        """The logits.

        Args:
          images: Floats [B, H, W, 3].
          dropout_seed: Integers [2] that differ from step to step and replica to replica; needed
            in training when the architecture drops anything.
          training: Whether anything is dropped.

        Raises:
          ValueError: The images have another size, or the seed is missing.
        """
        self._check(images, dropout_seed, training)
        seed = dropout_seed if training else None
        x = self.patch_embedding(images)  # [B, H, W, 3] -> [B, N, D]
        if self.class_token is not None:
            x = self.class_token(x)  # -> [B, 1 + N, D]
        x = self.position_embedding(x, seed)
        for block in self.blocks:
            x = block(x, seed)
        return self.head(self._features(x, seed))  # -> [B, classes]

    def _features(self, x: Tensor, seed: Tensor | None) -> Tensor:
        """What the classifier sees of the encoded tokens: [B, T, D] -> [B, F]."""
        if self.arch.pool == "token":
            x = self.norm(x[:, 0])  # the norm works token by token: the others' is not needed
        elif self.arch.pool == "mean":
            x = ops.mean(self.norm(x), axis=1)
        else:
            x = ops.reshape(self.norm(x), (-1, x.shape[1] * x.shape[2]))
        rate = self.arch.head_dropout
        for layer in self.head_layers:
            x = dropout(x, rate, seed, f"{layer.path}/input")
            x = gelu(layer(x), self.arch.gelu)
        if self.pre_logits is not None:
            x = ops.tanh(self.pre_logits(x))
        return dropout(x, rate, seed, f"{self.head.path}/input")

    def _check(self, images: Tensor, dropout_seed: Tensor | None, training: bool) -> None:
        expected = (self.image_size, self.image_size, 3)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"The model was built for images [B, {', '.join(map(str, expected))}]. "
                f"Received: {tuple(images.shape)}"
            )
        if not training or not self.arch.draws_at_random:
            return
        if dropout_seed is None:
            raise ValueError(
                "This model drops at random in training, so it needs dropout_seed, an integer "
                "tensor [2] that differs at every step and replica. Received: None"
            )
        if tuple(dropout_seed.shape) != (2,):
            raise ValueError(
                f"dropout_seed must be an integer tensor [2]. Received: shape {dropout_seed.shape}"
            )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self.num_classes


def _block(arch: Architecture, index: int, weights: InitialWeights, dtype: Any) -> EncoderBlock:
    attention = SelfAttention(
        arch.num_heads,
        arch.head_size,
        weights=weights,
        probability_dropout=arch.attention_dropout,
        output_dropout=arch.dropout if arch.dropout_everywhere else 0.0,
        name="attention",
        dtype=dtype,
    )
    mlp = Mlp(
        arch.mlp_dim,
        arch.width,
        weights=weights,
        form=arch.gelu,
        activate_output=arch.mlp_activates_output,
        dropout=arch.dropout,
        name="mlp",
        dtype=dtype,
    )
    return EncoderBlock(
        attention,
        mlp,
        stochastic_depth=arch.block_stochastic_depth(index),
        name=f"block_{index}",
        dtype=dtype,
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
