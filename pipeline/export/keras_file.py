"""The .keras format: stock Keras layers only, so `keras.models.load_model` loads it on any backend.

The file is a zip archive. Keras ignores unknown members; export.json holds the metadata.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from pipeline.errors import SettingsError
from pipeline.export.exported import Exported, Pixels, Probabilities, known_architecture
from pipeline.export.keras_checks import checked_copy
from pipeline.export.metadata import FILE, ExportMetadata, from_json, missing_metadata
from pipeline.model.architecture import Architecture
from pipeline.model.backend import Tensor
from pipeline.model.layers import NORM_EPSILON
from pipeline.model.stem import stem_channels

SUFFIX = ".keras"  # required by Keras


def write(model: keras.Model, metadata: ExportMetadata, path: Path) -> None:
    """Writes the file: input pixels [B, S, S, 3] in 0..255, uint8 or float, output [B, C].

    Args:
      model: A VisionTransformer.
      metadata: Its metadata.
      path: File name with the suffix `.keras`.
    """
    stock = stock_model(metadata)
    _copy_weights(model, stock)
    stock.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(FILE, metadata.to_json())


def recognizes(path: Path) -> bool:
    """Whether a path is a zip archive, as Keras files are."""
    return path.suffix == SUFFIX and path.is_file() and zipfile.is_zipfile(path)


def load(path: Path) -> Exported:
    """Loads a file that `write` wrote, using only Keras.

    Raises:
      SettingsError: The metadata is missing, the file is damaged, or it has classes that our
        exports do not have.
    """
    with checked_copy(path, SUFFIX) as (copy, stored):
        if stored is None:
            raise missing_metadata(str(path))
        metadata = from_json(stored, str(path))
        try:
            stock = keras.models.load_model(copy, compile=False, safe_mode=True)
        except Exception as error:  # a layer may raise any exception
            raise SettingsError(
                f"{path} is damaged: {error!s:.300}. Export the run again"
            ) from None

    def predict(pixels: Pixels) -> Probabilities:
        return np.asarray(keras.ops.convert_to_numpy(stock(pixels, training=False)))

    return Exported(metadata, predict)


def stock_model(metadata: ExportMetadata) -> keras.Model:
    """Builds the network with preprocessing from stock Keras layers, with untrained weights."""
    arch, given = known_architecture(metadata, "keras"), metadata.preprocessing
    size, width = given.image_size, arch.width
    pixels = keras.Input((size, size, 3), name="pixels")
    x = layers.Rescaling(1 / 255, name="to_unit_range")(pixels)
    variance = [value**2 for value in given.std]
    x = layers.Normalization(mean=list(given.mean), variance=variance, name="normalize")(x)
    x = _patch_embedding(x, arch)  # [B, S, S, 3] -> [B, h, w, D]
    x = layers.Reshape(((size // arch.patch_size) ** 2, width), name="tokens")(x)  # -> [B, N, D]
    if arch.pool == "token":
        # The class token is row 0 of an embedding table with one row.
        first = ops.zeros_like(x[:, :1, 0], dtype="int32")  # [B, 1]
        token = layers.Embedding(1, width, name="class_token")(first)  # -> [B, 1, D]
        x = ops.concatenate([token, x], axis=1)
    count = arch.num_tokens(size)
    # The positions 0, 1, 2, ... for one example. The embeddings are broadcast over the batch.
    places = ops.cumsum(ops.ones_like(x[:1, :, 0], dtype="int32"), axis=1) - 1  # [1, T]
    x = x + layers.Embedding(count, width, name="position_embedding")(places)
    for index in range(arch.depth):
        x = _block(x, arch, f"block_{index}")
    x = _features(x, arch)
    x = layers.Dense(len(metadata.classes), name="head")(x)
    return keras.Model(pixels, layers.Softmax(name="probabilities")(x), name="vit")


def _patch_embedding(x: Tensor, arch: Architecture) -> Tensor:
    """[B, S, S, 3] -> [B, h, w, D]"""
    form, name = "channels_last", "patch_embedding"
    if arch.stem == "patches":
        size = arch.patch_size
        return layers.Conv2D(arch.width, size, strides=size, data_format=form, name=name)(x)
    for index, channels in enumerate(stem_channels(arch.patch_size, arch.width)):
        x = layers.Conv2D(
            channels,
            3,
            strides=2,
            padding="same",
            use_bias=False,
            data_format=form,
            name=f"{name}_convolution_{index}",
        )(x)
        x = ops.relu(_norm(f"{name}_norm_{index}")(x))
    return layers.Dense(arch.width, name=f"{name}_out")(x)


def _block(x: Tensor, arch: Architecture, name: str) -> Tensor:
    """[B, T, D] -> [B, T, D]"""
    y = _norm(f"{name}_attention_norm")(x)
    attention = layers.MultiHeadAttention(arch.num_heads, arch.head_size, name=f"{name}_attention")
    x = x + attention(y, y)
    y = layers.Dense(arch.mlp_dim, name=f"{name}_mlp_hidden")(_norm(f"{name}_mlp_norm")(x))
    y = layers.Dense(arch.width, name=f"{name}_mlp_out")(_gelu(y, arch))
    return x + (_gelu(y, arch) if arch.mlp_activates_output else y)


def _features(x: Tensor, arch: Architecture) -> Tensor:
    """Pools the encoded tokens and applies the head up to the classifier: [B, T, D] -> [B, F]."""
    if arch.pool == "token":
        x = _norm("norm")(x[:, 0])
    elif arch.pool == "mean":
        x = ops.mean(_norm("norm")(x), axis=1)
    else:
        x = layers.Flatten(name="flatten")(_norm("norm")(x))
    for index, units in enumerate(arch.head_dims):
        x = _gelu(layers.Dense(units, name=f"head_{index}")(x), arch)
    if arch.pre_logits:
        x = layers.Dense(arch.pre_logits, activation="tanh", name="pre_logits")(x)
    return x


def _norm(name: str) -> layers.LayerNormalization:
    return layers.LayerNormalization(epsilon=NORM_EPSILON, name=name)


def _gelu(x: Tensor, arch: Architecture) -> Tensor:
    return ops.gelu(x, approximate=arch.gelu == "tanh")


def _copy_weights(model: Any, stock: keras.Model) -> None:
    """Copies the weights of the run's layers to the corresponding stock layers.

    Args:
      model: A VisionTransformer. Its kernels are reshaped: patches from [P*P*3, D] to [P, P, 3,
        D], attention from [D, n d] to [D, n, d].
      stock: Result of `stock_model`.
    """
    ours: dict[str, Any] = {v.path: v.value for v in model.variables}
    # Fixed positions are not a variable of the run's model.
    ours.setdefault("vit/position_embedding/positions", model.position_embedding.positions)
    for layer in stock.layers:
        if isinstance(layer, layers.Normalization):
            continue
        for weight, path in zip(layer.weights, _paths(layer), strict=True):
            weight.assign(ops.reshape(ours.pop(path), weight.shape))
    if ours:
        raise ValueError(f"the stock model has no layers for {', '.join(ours)}")


def _paths(layer: keras.Layer) -> list[str]:
    """The paths of a stock layer's weights in a VisionTransformer, in order."""
    # block_3_mlp_hidden -> block_3/mlp/hidden, block_3_mlp_norm -> block_3/mlp_norm,
    # patch_embedding_norm_0 -> patch_embedding/norm_0
    name = re.sub(r"^(block_\d+|patch_embedding)_", r"\1/", layer.name)
    path = "vit/" + re.sub(r"/mlp_(hidden|out)$", r"/mlp/\1", name)
    if layer.name == "class_token":
        return [f"{path}/token"]
    if layer.name == "position_embedding":
        return [f"{path}/positions"]
    if isinstance(layer, layers.LayerNormalization):
        return [f"{path}/gamma", f"{path}/beta"]
    if isinstance(layer, layers.MultiHeadAttention):
        parts = ("query", "key", "value", "out")
        return [f"{path}/{part}/{kind}" for part in parts for kind in ("kernel", "bias")]
    if getattr(layer, "use_bias", True):
        return [f"{path}/kernel", f"{path}/bias"] if layer.weights else []
    return [f"{path}/kernel"]
