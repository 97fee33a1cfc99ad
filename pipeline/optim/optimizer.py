"""AdamW in the order that gives N replicas the update of one: reduce, clip, decay, update.

Keras's optimizers clip before tf.distribute reduces, so that each replica clips its own share; here
the gradients that arrive have been summed over all replicas, and everything else follows from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import OptimConfig
from pipeline.optim.parameters import decays, rate_factors

# Runs `update(variable, *values)` on every copy of each variable, in step on all replicas.
Update = Callable[[Callable[..., None], Sequence[tf.Variable], Sequence[Sequence[Any]]], None]


# Adam's second moment is the square of the gradient in float32.
_LARGEST_SQUARED = float(np.sqrt(np.finfo(np.float32).max))
# Above it, squares that vanished below 1.2e-38 do not count: 10^9 of them are 1e-29.
_SMALLEST_EXACT_NORM = 1e-11


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Euclidean norm over all gradients, float64 scalar; not finite where a gradient is not.

    The squares of values above 1.8e19 overflow in float32, and those of values below 1e-19 vanish.
    The norm is then computed again on gradients that were divided by the largest value, as the BLAS
    function nrm2 does it.

    Args:
      gradients: Float32, of any shapes.
    """

    def scaled() -> tf.Tensor:
        largest = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(g)) for g in gradients]))
        # Of zeros the norm is zero; NaN stays NaN, and an infinite value gives one.
        norm = tf.linalg.global_norm([tf.math.divide_no_nan(g, largest) for g in gradients])
        return tf.cast(norm, tf.float64) * tf.cast(largest, tf.float64)

    norm = tf.linalg.global_norm(gradients)
    exact = tf.math.is_finite(norm) & (norm > _SMALLEST_EXACT_NORM)
    return tf.cond(exact, lambda: tf.cast(norm, tf.float64), scaled)


def clip_scale(norm: tf.Tensor, clip_norm: float | None) -> tf.Tensor:
    """Factor that brings a gradient down to `clip_norm`, float32 scalar.

    Pascanu et al., https://arxiv.org/abs/1211.5063.

    Args:
      norm: The gradient's global norm, a float scalar.
      clip_norm: None: the gradient is not clipped.

    Returns:
      0 where the update must be skipped: the norm is not finite, or the square of the clipped
      gradient is not finite in float32, and Adam's second moment would stay infinite.
    """
    limit = norm if clip_norm is None else tf.constant(clip_norm, norm.dtype)
    scale = tf.math.divide_no_nan(limit, tf.maximum(norm, limit))
    scale = tf.where(norm > 0, scale, tf.ones_like(scale))
    usable = tf.math.is_finite(norm) & (norm * scale < _LARGEST_SQUARED)
    return tf.where(usable, tf.cast(scale, tf.float32), 0.0)


class AdamW:
    """Adam with decoupled weight decay, https://arxiv.org/abs/1711.05101, and averaged weights.

    The decay is multiplied by the learning rate, as in Keras and PyTorch. `build` makes the state
    and must be called inside the runtime's scope, before the first step is traced.

    Args:
      config: `weight_decay`, `beta_1`, `beta_2`, `epsilon`, `layer_decay` and `ema_momentum` are
        read.

    Attributes:
      iterations: Steps done, including skipped ones. The schedule and dropout depend on it.
      applied_updates: Updates applied. Bias correction depends on it: a skipped step must not make
        the moments look older than they are.
    """

    def __init__(self, config: OptimConfig) -> None:
        self._config = config
        self._parameters: list[keras.Variable] = []
        self._rate_factors: list[float] = []
        self._momentum: list[keras.Variable] = []
        self._velocity: list[keras.Variable] = []
        self._average: list[keras.Variable] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the counters and two moments (and an average) per parameter, float32.

        Args:
          variables: Of the model; those that are trainable are its parameters.
        """
        self.iterations = _counter("iterations")
        self.applied_updates = _counter("applied_updates")
        factors = rate_factors([v.path for v in variables], self._config.layer_decay)
        trained = [(v, f) for v, f in zip(variables, factors, strict=True) if v.trainable]
        self._parameters = parameters = [v for v, _ in trained]
        self._rate_factors = [f for _, f in trained]
        self._momentum = [_slot(p, "momentum") for p in parameters]
        self._velocity = [_slot(p, "velocity") for p in parameters]
        if self._config.ema_momentum is not None:
            self._average = [_slot(p, "average") for p in parameters]

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """The whole state by name: the two counters, `momentum/PATH`, `velocity/PATH`."""
        named = {"iterations": self.iterations, "applied_updates": self.applied_updates}
        for p, m, v in zip(self._parameters, self._momentum, self._velocity, strict=True):
            named |= {f"momentum/{p.path}": m, f"velocity/{p.path}": v}
        return named

    @property
    def rate_factors(self) -> dict[str, float]:
        """What the learning rate is multiplied with, by the path of the parameter."""
        return {p.path: f for p, f in zip(self._parameters, self._rate_factors, strict=True)}

    @property
    def averages(self) -> dict[str, keras.Variable]:
        """The averaged weights by the path of their parameter; empty where none are kept."""
        return {p.path: a for p, a in zip(self._parameters, self._average, strict=False)}

    def apply(
        self,
        gradients: Sequence[tf.Tensor],
        *,
        learning_rate: tf.Tensor,
        scale: tf.Tensor,
        applied: tf.Tensor,
        update: Update,
    ) -> None:
        """One update, in replica context.

        Args:
          gradients: Summed over all replicas; one a parameter, in the order of `build`.
          learning_rate: Float32 scalar.
          scale: Float32 scalar the gradients are multiplied with (clipping). 0 skips the update:
            no parameter, moment or average changes, even if gradients are not finite.
          applied: Integer scalar, the updates applied before this one.
          update: The runtime's way to change variables.
        """
        config = self._config
        enabled = tf.cast(scale > 0, tf.float32)
        # With both betas 1 and the rate 0 Adam changes nothing: a skipped update needs no branch,
        # which replicas could not take inside tf.distribute.
        beta_1 = 1.0 - enabled * (1.0 - config.beta_1)
        beta_2 = 1.0 - enabled * (1.0 - config.beta_2)
        rate = enabled * learning_rate
        average_rate = enabled * (1.0 - _ema_momentum(config.ema_momentum, applied))
        power = tf.cast(applied + 1, tf.float32)
        bias_1, bias_2 = tf.pow(config.beta_1, power), tf.pow(config.beta_2, power)

        def update_one(
            variable: tf.Variable,
            factor: float,
            decay: float,
            gradient: tf.Tensor,
            m: tf.Variable,
            v: tf.Variable,
            average: tf.Variable | None,
        ) -> None:
            own_rate = rate * factor
            if decay:
                variable.assign_sub(variable * (own_rate * decay))
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=bias_1,
                beta2_power=bias_2,
                lr=own_rate,
                beta1=beta_1,
                beta2=beta_2,
                epsilon=config.epsilon,
                grad=tf.math.multiply_no_nan(tf.cast(gradient, tf.float32), scale),
            )
            if average is not None:
                average.assign_sub((average - variable) * average_rate)

        decays_by = [config.weight_decay if decays(p) else 0.0 for p in self._parameters]
        slots = [[s.value for s in slots] for slots in (self._momentum, self._velocity)]
        averages = [a.value for a in self._average] or [None] * len(self._parameters)
        arguments = zip(self._rate_factors, decays_by, gradients, *slots, averages, strict=True)
        update(update_one, [p.value for p in self._parameters], list(arguments))

    def swap_averages(self) -> None:
        """Exchanges weights and averages, so that evaluation sees the averages; again undoes it."""
        for parameter, average in zip(self._parameters, self._average, strict=False):
            weight = tf.identity(parameter.value)
            parameter.assign(average.value)
            average.assign(weight)


class LossScale:
    """Dynamic loss scaling for float16, Micikevicius et al., https://arxiv.org/abs/1710.03740.

    Looks at gradients after they were summed over replicas, so all replicas agree.
    """

    GROW_EVERY_STEPS = 2000
    NAME = "loss_scale"  # what the names of its state begin with

    def __init__(self, initial: float = 2.0**15) -> None:
        def scalar(value: float, dtype: str, name: str) -> keras.Variable:
            return keras.Variable(
                value, dtype=dtype, trainable=False, name=name, aggregation="only_first_replica"
            )

        self.value = scalar(initial, "float32", self.NAME)
        self._good_steps = scalar(0, "int64", f"{self.NAME}_good_steps")

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """The state by name."""
        return {v.name: v for v in (self.value, self._good_steps)}

    def adjust(self, finite: tf.Tensor) -> None:
        """Halves the scale after a step that was not finite, doubles it after 2,000 that were."""
        good_steps = tf.where(finite, self._good_steps.value + 1, 0)
        grow = good_steps >= self.GROW_EVERY_STEPS
        scale = self.value.value
        scale = tf.where(finite, tf.where(grow, 2.0 * scale, scale), tf.maximum(0.5 * scale, 1.0))
        self.value.assign(scale)
        self._good_steps.assign(tf.where(grow, tf.zeros_like(good_steps), good_steps))


def _counter(name: str) -> keras.Variable:
    return keras.Variable(
        0, dtype="int64", trainable=False, name=name, aggregation="only_first_replica"
    )


def _slot(parameter: keras.Variable, kind: str) -> keras.Variable:
    start = tf.identity(parameter.value) if kind == "average" else tf.zeros(parameter.shape)
    return keras.Variable(start, dtype="float32", trainable=False, name=kind)


def _ema_momentum(momentum: float | None, applied: tf.Tensor) -> tf.Tensor:
    """Momentum after `applied` updates: smaller at first, so that the average forgets its start.

    min(momentum, (1 + t) / (10 + t)), as in tf.train.ExponentialMovingAverage.
    """
    if momentum is None:
        return tf.constant(1.0)
    t = tf.cast(applied, tf.float32)
    return tf.minimum(momentum, (1.0 + t) / (10.0 + t))
