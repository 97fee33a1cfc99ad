"""The Vision Transformer of the Keras example, built from Keras's own layers, as a reference.

It follows K. Salama's "Image classification with Vision Transformer" at keras.io, without the
preprocessing and augmentation.
"""

from __future__ import annotations

import keras
from keras import layers

PATCH_SIZE, WIDTH, DEPTH, NUM_HEADS = 6, 64, 8, 4
HEAD = (2048, 1024)


class PatchEncoder(layers.Layer):
    """Maps patches [B, N, P*P*3] to tokens [B, N, D]: a Dense layer and a position Embedding."""

    def __init__(self, count: int, name: str) -> None:
        super().__init__(name=name)
        self.count = count
        self.projection = layers.Dense(WIDTH)
        self.position = layers.Embedding(count, WIDTH)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.projection.build(input_shape)
        self.position.build((self.count,))

    def call(self, patches: keras.KerasTensor) -> keras.KerasTensor:
        return self.projection(patches) + self.position(keras.ops.arange(self.count))


def keras_example(
    num_classes: int, image_size: int, *, depth: int | None = None, dropout: bool = True
) -> keras.Model:
    """Returns a model from images [B, H, W, 3] to logits [B, classes].

    Args:
      num_classes: The number of classes.
      image_size: H and W.
      depth: The number of blocks; None: those of the example.
      dropout: False sets all dropout rates to zero.
    """

    def rate(value: float) -> float:
        return value if dropout else 0.0

    def dense(x: keras.KerasTensor, units: int, drop: float, name: str) -> keras.KerasTensor:
        return layers.Dropout(rate(drop))(layers.Dense(units, activation=_gelu, name=name)(x))

    count = (image_size // PATCH_SIZE) ** 2
    images = keras.Input((image_size, image_size, 3))
    patches = keras.ops.image.extract_patches(images, PATCH_SIZE)
    patches = layers.Reshape((count, PATCH_SIZE**2 * 3))(patches)
    x = PatchEncoder(count, name="patch_encoder")(patches)
    for i in range(DEPTH if depth is None else depth):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}_attention")(x)
        x = x + layers.MultiHeadAttention(
            NUM_HEADS, WIDTH, dropout=rate(0.1), name=f"attention_{i}"
        )(y, y)
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}_mlp")(x)
        y = dense(y, 2 * WIDTH, 0.1, f"mlp_{i}_hidden")
        x = x + dense(y, WIDTH, 0.1, f"mlp_{i}_out")
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    x = layers.Dropout(rate(0.5))(layers.Flatten()(x))
    for i, units in enumerate(HEAD):
        x = dense(x, units, 0.5, f"head_{i}")
    return keras.Model(images, layers.Dense(num_classes, name="classifier")(x))


def paths_in_pipeline() -> dict[str, list[str]]:
    """Returns the paths of our model's variables for each layer, in the order of its weights."""

    def pair(path: str, first: str = "kernel", second: str = "bias") -> list[str]:
        return [f"vit/{path}/{first}", f"vit/{path}/{second}"]

    paths = {
        "patch_encoder": [*pair("patch_embedding"), "vit/position_embedding/positions"],
        "norm": pair("norm", "gamma", "beta"),
        "head_0": pair("head_0"),
        "head_1": pair("head_1"),
        "classifier": pair("head"),
    }
    for i in range(DEPTH):
        block = f"block_{i}"
        paths[f"norm_{i}_attention"] = pair(f"{block}/attention_norm", "gamma", "beta")
        paths[f"norm_{i}_mlp"] = pair(f"{block}/mlp_norm", "gamma", "beta")
        paths[f"mlp_{i}_hidden"] = pair(f"{block}/mlp/hidden")
        paths[f"mlp_{i}_out"] = pair(f"{block}/mlp/out")
        paths[f"attention_{i}"] = [
            path
            for part in ("query", "key", "value", "out")
            for path in pair(f"{block}/attention/{part}")
        ]
    return paths


def copy_weights(model: keras.Model, reference: keras.Model) -> None:
    """Copies the weights of our `keras_example` into the reference model."""
    ours = {variable.path: variable for variable in model.variables}
    for name, paths in paths_in_pipeline().items():
        weights = reference.get_layer(name).weights
        for weight, path in zip(weights, paths, strict=True):
            weight.assign(keras.ops.reshape(ours[path].value, weight.shape))


def _gelu(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.ops.gelu(x, approximate=False)
