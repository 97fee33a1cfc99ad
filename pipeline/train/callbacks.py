"""People's own `keras.callbacks`, called where this loop can keep what they promise."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

import keras

from pipeline.errors import SettingsError

# Hooks of single batches: several steps run in one graph, so there is no such moment on the host.
_PER_BATCH = [
    f"on_{phase}_batch_{side}"
    for phase in ("train", "test", "predict")
    for side in ("begin", "end")
] + ["on_batch_begin", "on_batch_end"]


class Callbacks:
    """The callbacks that `train.callbacks` names, each as module:factory.

    Args:
      names: Factories are called without arguments and return a `keras.callbacks.Callback`.
      model: What callbacks see as `self.model`.

    Raises:
      SettingsError: A factory is missing, returns something else, or the callback has hooks of
        single batches, which are never called here.
    """

    def __init__(self, names: Sequence[str], model: keras.Model) -> None:
        self._callbacks = [_load(name) for name in names]
        self._model = model
        model.stop_training = False
        for callback in self._callbacks:
            callback.set_model(model)

    @property
    def stop_training(self) -> bool:
        """Whether a callback asked to stop."""
        return bool(self._model.stop_training)

    def train_begin(self) -> None:
        for callback in self._callbacks:
            callback.on_train_begin()

    def epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """An epoch, numbered from 0 as in Keras, is over; `logs` is the newest row of metrics."""
        for callback in self._callbacks:
            callback.on_epoch_end(epoch, dict(logs))

    def test_end(self, logs: Mapping[str, float]) -> None:
        for callback in self._callbacks:
            callback.on_test_end(dict(logs))

    def train_end(self, logs: Mapping[str, float]) -> None:
        for callback in self._callbacks:
            callback.on_train_end(dict(logs))


def _load(name: str) -> keras.callbacks.Callback:
    module, _, factory = name.partition(":")
    try:
        callback = getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SettingsError(
            f"train.callbacks: cannot make {name!r} ({error}). Give module:factory, where the "
            "factory takes no arguments and the module is on PYTHONPATH"
        ) from None
    if not isinstance(callback, keras.callbacks.Callback):
        raise SettingsError(
            f"train.callbacks: {name!r} made a {type(callback).__name__}, not a "
            "keras.callbacks.Callback"
        )
    base = keras.callbacks.Callback
    kind = type(callback)
    unusable = [hook for hook in _PER_BATCH if getattr(kind, hook) is not getattr(base, hook)]
    if unusable:
        raise SettingsError(
            f"train.callbacks: {name!r} has {', '.join(unusable)}, which is never called: steps "
            "run in one graph. Use on_epoch_end, on_test_end, on_train_begin or on_train_end"
        )
    return callback
