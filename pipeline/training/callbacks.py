"""Users' `keras.callbacks`: loads and checks them, and calls them on the chief.

Every hook that a callback overrides is either called as in `keras.Model.fit`, or rejected when the
run starts. Per-batch hooks are rejected, because several steps run in one graph and the host is not
involved between batches. Keras's own callbacks that change weights or the learning rate are also
rejected.

Callbacks run on the chief only. With several processes, a hook that changes weights raises an error
on all of them, because the other processes would keep their weights. With a single process, a hook
may change weights. The change is saved with the next checkpoint. A run that resumes from an earlier
checkpoint calls the hook again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import keras
import tensorflow as tf

from pipeline.errors import PipelineError, SettingsError
from pipeline.plugins import call_plugin, load_plugin
from pipeline.runtimes.agreement import on_chief
from pipeline.runtimes.runtime import Runtime

_CALLED = (
    "on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_test_begin",
    "on_test_end",
)  # fmt: skip
_NEVER_CALLED = (
    "on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end",
    "on_test_batch_begin", "on_test_batch_end", "on_predict_batch_begin", "on_predict_batch_end",
    "on_predict_begin", "on_predict_end",
)  # fmt: skip

# Keys that the logs of an epoch may have.
_METRICS = ("loss", "accuracy", "top_5_accuracy")
LOGS = (*_METRICS, *(f"val_{name}" for name in _METRICS), "learning_rate")

# Keras's own callbacks that do not work here: the reason, and what to use instead.
_UNSUPPORTED = {
    "BackupAndRestore": "the run resumes from its own checkpoints; set checkpoint.every_epochs",
    "LearningRateScheduler": "the learning rate is a function of the step, the same on all "
    "processes and after a resume; set optim.schedule, optim.warmup_epochs and optim.base_lr",
    "ModelCheckpoint": "the run keeps the best and the newest checkpoints itself; set "
    "checkpoint.every_epochs, checkpoint.keep and train.best_by",
    "OrbaxCheckpoint": "the run keeps the best and the newest checkpoints itself; set "
    "checkpoint.every_epochs, checkpoint.keep and train.best_by",
    "ProgbarLogger": "`vit train` shows progress itself",
    "ReduceLROnPlateau": "the learning rate is a function of the step, the same on all processes "
    "and after a resume; set optim.schedule, and train.early_stopping to stop at a plateau",
    "SwapEMAWeights": "the run averages weights itself; set optim.ema_momentum and "
    "train.evaluate_ema",
    "TensorBoard": "the run writes TensorBoard files itself; see `vit board`",
    "TerminateOnNaN": "steps that are not finite are skipped; see train.max_bad_steps",
}


class CallbackError(PipelineError):
    """A callback raised an error, or changed weights while there are several processes."""


class Callbacks:
    """The callbacks of `train.callbacks`.

    Callbacks are created and called on the chief only. All processes must call the same methods in
    the same order, because an error on the chief is raised on all processes. Without callbacks, the
    methods do nothing and need no communication.

    Args:
      names: Factories as "module:factory". Each is called without arguments and returns a
        `keras.callbacks.Callback`.
      runtime: Connects the processes.

    Raises:
      SettingsError: A factory is missing, fails or returns something else, or the callback is not
        supported.
    """

    def __init__(self, names: Sequence[str], runtime: Runtime) -> None:
        self._names = names
        self._runtime = runtime
        self._callbacks: dict[str, keras.callbacks.Callback] = {}
        self._model: keras.Model | None = None
        self._params: dict[str, int] = {}
        self._on_chief(self._load)

    def reload(self) -> None:
        """Creates the callbacks on a new chief. All processes must call it."""
        model, params = self._model, self._params

        def reload() -> None:
            self._load()
            for callback in self._callbacks.values():
                callback.set_params(dict(params))
                callback.set_model(model)
                callback.on_train_begin({})

        self._on_chief(reload)

    @property
    def stop_training(self) -> bool:
        """Whether a callback has asked to stop training. Only valid on the chief."""
        return bool(getattr(self._model, "stop_training", False))

    @property
    def exist(self) -> bool:
        """Whether there are callbacks; the same on all processes."""
        return bool(self._names)

    def attach(
        self, model: keras.Model, epochs: int, steps_per_epoch: int, validates: bool
    ) -> None:
        """Sets the model and Keras's `params` of all callbacks.

        Args:
          model: Becomes `self.model` of the callbacks.
          epochs: Number of epochs of the run, rounded up.
          steps_per_epoch: Number of steps per epoch, rounded up.
          validates: Whether there is a validation split.

        Raises:
          SettingsError: A callback monitors a value that the run does not have.
        """
        params = {"epochs": epochs, "steps": steps_per_epoch, "verbose": 0}
        self._model, self._params = model, params

        def attach() -> None:
            model.stop_training = False
            for name, callback in self._callbacks.items():
                monitor = getattr(callback, "monitor", "")
                if not validates and str(monitor).startswith("val_"):
                    raise SettingsError(
                        f"train.callbacks: {name!r} monitors {monitor}, but the data has no "
                        "validation split. Set data.validation_fraction, or monitor loss"
                    )
                callback.set_params(dict(params))
                callback.set_model(model)

        self._on_chief(attach)

    def train_begin(self) -> None:
        self._call("on_train_begin", {})

    def train_end(self, logs: Mapping[str, float]) -> None:
        self._call("on_train_end", logs)

    def epoch_begin(self, epoch: int) -> None:
        """Calls on_epoch_begin, also when a run resumes within an epoch. Epochs count from 0."""
        self._call("on_epoch_begin", epoch, {})

    def epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Calls on_epoch_end. `logs` has the epoch's means, and `val_` keys if it was evaluated."""
        self._call("on_epoch_end", epoch, logs)

    def test_begin(self) -> None:
        self._call("on_test_begin", {})

    def test_end(self, logs: Mapping[str, float]) -> None:
        self._call("on_test_end", logs)

    def _load(self) -> None:
        for name in self._names:
            callback = _make(name)
            _check(name, callback)
            self._callbacks[name] = callback

    def _call(self, hook: str, *arguments: Any) -> None:
        def call() -> None:
            for name, callback in self._callbacks.items():
                own = [dict(a) if isinstance(a, Mapping) else a for a in arguments]
                what = f"train.callbacks: {name!r} raised an error in {hook}"
                with self._checking_weights(name, hook), warnings.catch_warnings():
                    # Epochs without an evaluation have no val_ keys, as with fit's validation_freq.
                    warnings.filterwarnings("ignore", "Early stopping conditioned on metric")
                    call_plugin(CallbackError, what, getattr(callback, hook), *own)

        self._on_chief(call)

    @contextmanager
    def _checking_weights(self, name: str, hook: str) -> Iterator[None]:
        """Context that raises CallbackError if weights change while there are several processes."""
        is_shared = self._runtime.world_size > 1 and self._model is not None
        weights = cast("keras.Model", self._model).weights if is_shared else []
        # This copies nothing: TensorFlow uses a new buffer if a variable changes while its value is
        # referenced.
        before = [tf.convert_to_tensor(weight.value) for weight in weights]
        yield
        if not all(_equal(old, weight.value) for old, weight in zip(before, weights, strict=True)):
            raise CallbackError(
                f"train.callbacks: {name!r} changed the model's weights in {hook}. Callbacks run "
                "on rank 0 only, so the other processes would have different weights. Remove the "
                "change from the callback, or train with a single process"
            )

    def _on_chief(self, function: Callable[[], None]) -> None:
        if self._names:
            on_chief(self._runtime, function)


def epoch_logs(
    training: Mapping[str, Any], validation: Mapping[str, Any] | None, learning_rate: float
) -> dict[str, float]:
    """The metrics of an epoch under the keys that Keras uses."""
    logs = evaluation_logs(training)
    logs |= {f"val_{name}": value for name, value in evaluation_logs(validation or {}).items()}
    return logs | {"learning_rate": learning_rate}


def evaluation_logs(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a row under the keys that Keras uses, without missing values."""
    return {name: row[name] for name in _METRICS if row.get(name) is not None}


def _make(name: str) -> Any:
    make = load_plugin("train.callbacks", name)
    factory = name.partition(":")[2]
    return call_plugin(SettingsError, f"train.callbacks: {name!r}: {factory}() failed", make)


def _check(name: str, callback: Any) -> None:
    if not isinstance(callback, keras.callbacks.Callback):
        raise SettingsError(
            f"train.callbacks: {name!r} made a {type(callback).__name__}, not a "
            "keras.callbacks.Callback"
        )
    for kind, instead in _UNSUPPORTED.items():
        if isinstance(callback, getattr(keras.callbacks, kind)):
            raise SettingsError(f"train.callbacks: {name!r} is a {kind}: {instead}")
    unusable = [hook for hook in _NEVER_CALLED if _overrides(callback, hook)]
    if unusable:
        raise SettingsError(
            f"train.callbacks: {name!r} has {', '.join(unusable)}, which is never called: several "
            f"steps run in one graph. Use one of {', '.join(_CALLED)}"
        )
    if getattr(callback, "restore_best_weights", False):
        raise SettingsError(
            f"train.callbacks: {name!r} has restore_best_weights=True. The run does that itself: "
            "its result, export and predictions use the weights that were best on validation. "
            "Set restore_best_weights=False"
        )
    if isinstance(callback, keras.callbacks.EarlyStopping):
        _check_monitor(name, callback)


def _check_monitor(name: str, callback: keras.callbacks.EarlyStopping) -> None:
    if callback.monitor not in LOGS:
        raise SettingsError(
            f"train.callbacks: {name!r} monitors {callback.monitor!r}, which is not one of "
            f"{', '.join(LOGS)}"
        )
    # Keras gets the direction from the metrics of a compiled model, but this model has none.
    if callback.mode == "auto" and callback.monitor.endswith("accuracy"):
        callback.mode = "max"
    # Keras would raise this error only at the end of the first epoch.
    if callback.mode == "auto" and not callback.monitor.endswith("loss"):
        raise SettingsError(
            f"train.callbacks: {name!r} monitors {callback.monitor!r} with mode='auto', but Keras "
            "does not know whether lower or higher values are better. Set mode='min' or "
            "mode='max', or monitor a loss or an accuracy"
        )


def _equal(old: tf.Tensor, new: tf.Variable) -> bool:
    both_nan = tf.math.is_nan(old) & tf.math.is_nan(new)
    return bool(tf.reduce_all((old == new) | both_nan))


def _overrides(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Whether its class overrides the hook, or the instance has it, as with LambdaCallback."""
    base = getattr(keras.callbacks.Callback, hook)
    return hook in vars(callback) or getattr(type(callback), hook) is not base
