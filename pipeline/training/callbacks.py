"""Users' `keras.callbacks`: loaded, checked, and called on the chief.

Every hook that a callback overrides is either called as `keras.Model.fit` calls it, or refused when
the run starts. Per-batch hooks are refused: several steps run in one graph, so the host has no such
moment. Keras's own callbacks that change weights or the learning rate are refused, too.

Callbacks run on the chief only. With several processes, a hook that changes weights ends all of
them: the other processes would keep their weights, and the ranks would silently differ. One process
alone allows it. Such a change is part of the next checkpoint, but only there: nothing repeats it on
other processes, and a run that is resumed from an earlier checkpoint calls the hook again.
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

# What an epoch's logs may hold.
_METRICS = ("loss", "accuracy", "top_5_accuracy")
LOGS = (*_METRICS, *(f"val_{name}" for name in _METRICS), "learning_rate")

# Keras's own callbacks that cannot work here: why, and what to use instead.
_INSTEAD = {
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
    "TensorBoard": "the run writes its curves itself; see `vit board`",
    "TerminateOnNaN": "steps that are not finite are skipped; see train.max_bad_steps",
}


class CallbackError(PipelineError):
    """A callback raised an error, or changed weights that other processes keep."""


class Callbacks:
    """The callbacks that `train.callbacks` names, each as module:factory.

    They exist and are called on the chief only. All processes must call the same methods in the
    same order: an error on the chief is raised on all of them. Without callbacks nothing is done
    and nothing is sent.

    Args:
      names: Each factory is called without arguments and returns a `keras.callbacks.Callback`.
      runtime: The processes.

    Raises:
      SettingsError: A factory is missing or fails, returns something else, or the callback cannot
        work here.
    """

    def __init__(self, names: Sequence[str], runtime: Runtime) -> None:
        self._names = names
        self._runtime = runtime
        self._callbacks: dict[str, keras.callbacks.Callback] = {}
        self._model: keras.Model | None = None
        self._on_chief(self._load)

    @property
    def stop_training(self) -> bool:
        """Whether a callback asked to stop, on the chief."""
        return bool(getattr(self._model, "stop_training", False))

    @property
    def exist(self) -> bool:
        """Whether there are any, on every process."""
        return bool(self._names)

    def attach(
        self, model: keras.Model, epochs: int, steps_per_epoch: int, validates: bool
    ) -> None:
        """Gives them the model and Keras's `params`.

        Args:
          model: What callbacks see as `self.model`.
          epochs, steps_per_epoch: Of the whole run, rounded up.
          validates: Whether there is a validation split.

        Raises:
          SettingsError: A callback monitors a value that the run does not have.
        """
        params = {"epochs": epochs, "steps": steps_per_epoch, "verbose": 0}

        def attach() -> None:
            self._model = model
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
        """An epoch, numbered from 0 as in Keras, begins, or goes on after a resume."""
        self._call("on_epoch_begin", epoch, {})

    def epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """An epoch is over; `logs` has its means, and `val_` keys if it was evaluated."""
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
                with self._keeping_weights(name, hook), warnings.catch_warnings():
                    # Epochs without an evaluation have no val_ keys, as with fit's validation_freq.
                    warnings.filterwarnings("ignore", "Early stopping conditioned on metric")
                    call_plugin(CallbackError, what, getattr(callback, hook), *own)

        self._on_chief(call)

    @contextmanager
    def _keeping_weights(self, name: str, hook: str) -> Iterator[None]:
        """Raises CallbackError if the weights change inside and other processes have them too."""
        shared = self._runtime.world_size > 1 and self._model is not None
        weights = cast("keras.Model", self._model).weights if shared else []
        # This copies nothing: a variable whose value is in use elsewhere changes in a new buffer.
        before = [tf.convert_to_tensor(weight.value) for weight in weights]
        yield
        if not all(_equal(old, weight.value) for old, weight in zip(before, weights, strict=True)):
            raise CallbackError(
                f"train.callbacks: {name!r} changed the model's weights in {hook}. Callbacks run "
                "on rank 0 only, so the other processes would train other weights. Remove that "
                "change from the callback, or train on one process"
            )

    def _on_chief(self, function: Callable[[], None]) -> None:
        if self._names:
            on_chief(self._runtime, function)


def epoch_logs(
    training: Mapping[str, Any], validation: Mapping[str, Any] | None, learning_rate: float
) -> dict[str, float]:
    """An epoch's metrics under the keys that Keras gives them."""
    logs = evaluation_logs(training)
    logs |= {f"val_{name}": value for name, value in evaluation_logs(validation or {}).items()}
    return logs | {"learning_rate": learning_rate}


def evaluation_logs(row: Mapping[str, Any]) -> dict[str, float]:
    """A row's metrics under the keys that Keras gives them, without those that are not known."""
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
    for kind, instead in _INSTEAD.items():
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
    # Keras asks the metrics of a compiled model for the direction; this model has none.
    if callback.mode == "auto" and callback.monitor.endswith("accuracy"):
        callback.mode = "max"
    # Keras raises this error at the end of the first epoch.
    if callback.mode == "auto" and not callback.monitor.endswith("loss"):
        raise SettingsError(
            f"train.callbacks: {name!r} monitors {callback.monitor!r} with mode='auto', and Keras "
            "cannot tell whether less or more of it is better. Set mode='min' or mode='max', or "
            "monitor a loss or an accuracy"
        )


def _equal(old: tf.Tensor, new: tf.Variable) -> bool:
    both_nan = tf.math.is_nan(old) & tf.math.is_nan(new)
    return bool(tf.reduce_all((old == new) | both_nan))


def _overrides(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Whether its class has this hook, or the callback itself, as LambdaCallback does."""
    base = getattr(keras.callbacks.Callback, hook)
    return hook in vars(callback) or getattr(type(callback), hook) is not base
