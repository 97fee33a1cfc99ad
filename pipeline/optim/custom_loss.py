"""`optim.loss`: a user's loss function, loaded and checked."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from pipeline.errors import SettingsError
from pipeline.plugins import call_plugin, check_random, load_plugin

_EXAMPLES = 3
# Largest relative difference between a loss computed in a batch and alone: rounding.
_TOLERANCE = 1e-5


class Loss(Protocol):
    """A loss function of TensorFlow operations.

    The loss of an example must depend on nothing but its own row. The pipeline sums the losses over
    the examples of all processes and divides the sum by the global batch size.
    """

    def __call__(self, target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The loss of each example.

        Args:
          target: float32 [b, C]; each row is a distribution over the classes, after label smoothing
            and mixing.
          logits: float32 [b, C].

        Returns:
          float32 [b].
        """


def cross_entropy(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy, the loss without `optim.loss`."""
    return tf.nn.softmax_cross_entropy_with_logits(target, logits)


def load_loss(name: str, num_classes: int) -> Loss:
    """Loads and checks the loss function that `optim.loss` names.

    Raises:
      SettingsError: It cannot be loaded, or is not as `Loss` says.
    """
    loss: Loss = load_plugin("optim.loss", name)
    _check(f"optim.loss: {name!r}", loss, num_classes)
    return loss


def _check(what: str, loss: Loss, num_classes: int) -> None:
    spec = tf.TensorSpec([None, num_classes], tf.float32)
    traced = tf.function(loss, input_signature=[spec, spec], autograph=False)
    graph = call_plugin(SettingsError, f"{what} failed", traced.get_concrete_function).graph
    check_random(what, graph, "A loss must not be random")
    generator = np.random.Generator(np.random.PCG64(0))
    logits = generator.normal(size=[_EXAMPLES, num_classes]).astype(np.float32)
    target = np.eye(num_classes, dtype=np.float32)[np.arange(_EXAMPLES) % num_classes]
    together = call_plugin(SettingsError, f"{what} failed", loss, _tensor(target), _tensor(logits))
    if not tf.is_tensor(together) or (together.shape, together.dtype) != ([_EXAMPLES], tf.float32):
        raise SettingsError(
            f"{what} must return the loss of each example, float32 [{_EXAMPLES}] for "
            f"{_EXAMPLES} examples. Received: {describe(together)}"
        )
    alone = [
        loss(_tensor(target[i : i + 1]), _tensor(logits[i : i + 1])).numpy()[0]
        for i in range(_EXAMPLES)
    ]
    if not np.allclose(alone, together.numpy(), rtol=_TOLERANCE, atol=_TOLERANCE):
        raise SettingsError(
            f"{what}: the loss of an example depends on the other examples in the batch. With "
            "several processes the loss would differ, because each process has only part of the "
            "batch"
        )


def describe(value: Any) -> str:
    """Type and shape of a value, for messages."""
    if tf.is_tensor(value) or isinstance(value, np.ndarray):
        return f"{value.dtype.name} {list(value.shape)}"
    return type(value).__name__


def _tensor(array: np.ndarray) -> tf.Tensor:
    return tf.constant(array)
