"""The Vision Transformer, and `build_vit`, which builds it from the settings.

References:
  Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv 2010.11929.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from pipeline.config import ModelConfig
from pipeline.errors import SettingsError
from pipeline.model.architecture import Architecture, architecture, check_patches
from pipeline.model.backend import Tensor
from pipeline.model.custom import CustomModel, build_custom
from pipeline.model.dropout import dropout
from pipeline.model.elementwise import gelu
from pipeline.model.initial import InitialWeights, keras_weights, vit_weights
from pipeline.model.layers import (
    ClassToken,
    EncoderBlock,
    LayerNorm,
    Linear,
    Mlp,
    PatchEmbedding,
    PositionEmbedding,
    SelfAttention,
    Shape,
)
from pipeline.model.stem import ConvolutionalStem

# Prefix of the paths of the classifier's variables.
HEAD = "vit/head/"


def build_vit(
    config: ModelConfig,
    *,
    image_size: int,
    num_classes: int,
    dtype: str = "float32",
    seed: int = 0,
    recompute: bool = False,
) -> VisionTransformer | CustomModel:
    """Builds the model that the settings describe, and creates its variables.

    Args:
      config: The variant and its overrides.
      image_size: Height and width of the images in pixels.
      num_classes: Number of logits.
      dtype: Name of a Keras dtype policy: float32, mixed_bfloat16 or mixed_float16.
      seed: Seed of the initial weights, which depend on nothing else.
      recompute: See VisionTransformer.

    Raises:
      SettingsError: The settings are inconsistent, or do not match the image size.
    """
    if num_classes < 1:
        raise SettingsError(f"The model needs at least one class. Received: {num_classes}")
    if config.builder is not None:
        return build_custom(
            config.builder, image_size=image_size, num_classes=num_classes, seed=seed, dtype=dtype
        )
    arch = architecture(config)
    check_patches(image_size, arch.patch_size)
    model = VisionTransformer(
        arch, image_size, num_classes, dtype=dtype, seed=seed, recompute=recompute
    )
    model.build((None, image_size, image_size, 3))
    return model


class VisionTransformer(keras.Model):
    """Maps images, floats [B, H, W, 3], to logits, float32 [B, classes].

    The classifier computes in float32 under every dtype policy. Logits in bfloat16 would have only
    two or three significant digits, and the loss is a small difference between them.

    Args:
      arch: Shape of the network.
      image_size: Height and width of the images in pixels.
      num_classes: Number of logits.
      dtype: Keras dtype policy.
      seed: Seed of the initial weights.
      recompute: In training, store only the input of each block and recompute the rest for the
        gradients (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv
        1604.06174). The last block is not recomputed, because its gradients are needed first.
    """

    def __init__(
        self,
        arch: Architecture,
        image_size: int,
        num_classes: int,
        *,
        dtype: Any = "float32",
        seed: int = 0,
        recompute: bool = False,
    ) -> None:
        super().__init__(name="vit", dtype=dtype)
        self.recompute = recompute
        self.arch, self.image_size, self.num_classes = arch, image_size, num_classes
        weights = (
            vit_weights(seed, width=arch.width) if arch.initial == "vit" else keras_weights(seed)
        )
        side = image_size // arch.patch_size
        tokens_of = ConvolutionalStem if arch.stem == "convolutions" else PatchEmbedding
        self.patch_embedding = tokens_of(
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
        self.norm = LayerNorm(name="norm", dtype=dtype)
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
        """Computes the logits.

        Args:
          images: Floats [B, H, W, 3].
          dropout_seed: Integers [2] that differ between steps and replicas. Required in training
            if the architecture uses dropout or stochastic depth.
          training: Whether dropout and stochastic depth are active.

        Raises:
          ValueError: The images have the wrong size, or the seed is missing.
        """
        self._check(images, dropout_seed, training)
        seed = dropout_seed if training else None
        x = self.patch_embedding(images)  # [B, H, W, 3] -> [B, N, D]
        if self.class_token is not None:
            x = self.class_token(x)  # -> [B, 1 + N, D]
        x = self.position_embedding(x, seed)
        for block in self.blocks[:-1]:
            x = _again(block, seed)(x) if self.recompute and training else block(x, seed)
        x = self.blocks[-1](x, seed)
        return self.head(self._features(x, seed))  # -> [B, classes]

    def _features(self, x: Tensor, seed: Tensor | None) -> Tensor:
        """Pools the encoded tokens and applies the head up to the classifier: [B, T, D] -> [B, F].

        F is the number of features that the classifier gets.
        """
        if self.arch.pool == "token":
            x = self.norm(x[:, 0])  # the norm is applied per token, so the others can be skipped
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
        if not training or not self.arch.uses_randomness:
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


def _again(block: EncoderBlock, seed: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Wraps a block so that its activations are recomputed for the gradients."""
    # The seed is captured, not passed: TensorFlow would compute gradients for it, and it may be
    # None.
    return keras.remat(lambda x: block(x, seed))
