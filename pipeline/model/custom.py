"""`model.builder`: a user's model, loaded, checked and adapted."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import keras
import numpy as np

from pipeline.errors import SettingsError
from pipeline.model.backend import Tensor
from pipeline.plugins import call_plugin, load_plugin

_EXAMPLES = 2


class ModelBuilder(Protocol):
    """A function that makes a model of keras.ops or TensorFlow operations."""

    def __call__(self, *, image_size: int, num_classes: int, seed: int, dtype: str) -> keras.Model:
        """Makes the model, with its variables.

        The call may take `dropout_seed`, integers [2] that differ from step to step and from part
        to part of the batch: all that is random in training must be drawn from it. In evaluation it
        is None.
        Each layer needs a name of its own, because checkpoints find weights by their paths.

        Args:
          image_size: S, height and width of the images.
          num_classes: C.
          seed: Of the initial weights, which must depend on nothing else.
          dtype: Name of a Keras dtype policy: float32, mixed_bfloat16 or mixed_float16.

        Returns:
          A model from normalized images, float32 [B, S, S, 3], to logits, float32 [B, C].
        """


class CustomModel(keras.Model):
    """A user's model with the call and the attributes that the pipeline uses.

    Args:
      inner: The model.
      image_size: Height and width of the images.
      num_classes: Length of the logits.
      dtype: Keras dtype policy.
    """

    # What the pipeline knows about its own networks, and not about others.
    arch = None

    def __init__(self, inner: keras.Model, image_size: int, num_classes: int, dtype: str) -> None:
        super().__init__(name="custom", dtype=dtype, autocast=False)
        self.inner, self.image_size, self.num_classes = inner, image_size, num_classes
        self._takes_seed = "dropout_seed" in inspect.signature(inner.call).parameters
        self.built = True

    def build(self, input_shape: Any) -> None:
        """Does nothing: the inner model has its variables."""

    def call(
        self, images: Tensor, *, dropout_seed: Tensor | None = None, training: bool = False
    ) -> Tensor:
        """The logits, float32 [B, C]."""
        more = {"dropout_seed": dropout_seed if training else None} if self._takes_seed else {}
        return self.inner(images, training=training, **more)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """[B, S, S, 3] -> [B, C]."""
        return input_shape[0], self.num_classes


def build_custom(
    name: str, *, image_size: int, num_classes: int, seed: int, dtype: str
) -> CustomModel:
    """Builds the model that `model.builder` names, twice, and checks it.

    Raises:
      SettingsError: It cannot be loaded, or is not as `ModelBuilder` says.
    """
    what = f"model.builder: {name!r}"
    builder: ModelBuilder = load_plugin("model.builder", name)

    def make() -> keras.Model:
        return builder(image_size=image_size, num_classes=num_classes, seed=seed, dtype=dtype)

    def run(model: keras.Model) -> Any:
        return model(np.zeros([_EXAMPLES, image_size, image_size, 3], np.float32))

    models = []
    for _ in range(2):
        inner = call_plugin(SettingsError, f"{what} failed", make)
        if not isinstance(inner, keras.Model):
            raise SettingsError(
                f"{what} must return a keras.Model. Received: {type(inner).__name__}"
            )
        logits = call_plugin(SettingsError, f"{what}: calling the model failed", run, inner)
        _check_logits(what, logits, num_classes)
        models.append(inner)
    _check_variables(what, *models)
    return CustomModel(models[0], image_size, num_classes, dtype)


def _check_logits(what: str, logits: Any, num_classes: int) -> None:
    expected = f"float32 {[_EXAMPLES, num_classes]}"
    received = type(logits).__name__
    if keras.ops.is_tensor(logits):
        received = f"{keras.backend.standardize_dtype(logits.dtype)} {list(logits.shape)}"
    if received != expected:
        raise SettingsError(
            f"{what}: for {_EXAMPLES} images the model must return logits, {expected}. Received: "
            f"{received}"
        )


def _check_variables(what: str, model: keras.Model, again: keras.Model) -> None:
    state = [variable.path for variable in model.non_trainable_variables]
    if state or not model.trainable_variables:
        found = f"has variables that are not trained: {', '.join(state[:3])}"
        raise SettingsError(
            f"{what}: the model {found if state else 'has no variables'}. Such state differs "
            "between processes. Use LayerNormalization or GroupNormalization in place of "
            "BatchNormalization, and draw dropout from dropout_seed in place of keras.layers."
            "Dropout. To train a part of a model, set optim.freeze"
        )
    paths = [variable.path for variable in model.variables]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise SettingsError(
            f"{what}: two variables have the path {twice}. Give each layer a name of its own"
        )
    for first, second in zip(model.variables, again.variables, strict=True):
        if first.path != second.path:
            raise SettingsError(
                f"{what}: building the model twice gave different variable names ({first.path} and "
                f"{second.path}), so checkpoints could not be restored. Set `name` for the model "
                "and for each layer"
            )
        if not np.array_equal(*map(keras.ops.convert_to_numpy, (first, second))):
            raise SettingsError(
                f"{what}: building the model twice with the same seed gave different initial "
                f"values of {first.path}. Give each initializer a seed that depends on `seed` only"
            )
