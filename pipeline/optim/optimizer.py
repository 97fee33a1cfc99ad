"""AdamW that gives the same update on N replicas as on one.

Keras optimizers clip before tf.distribute reduces, so each replica clips only its own gradients.
Here the gradients have already been summed over all replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import OptimConfig
from pipeline.optim.parameters import decays, learning_rate_factors

# Runs `update(variable, *values)` on every copy of each variable, in the same way on all replicas.
# `update` returns operations, and so does this function; see `Runtime.update`.
Update = Callable[
    [Callable[..., list[Any]], Sequence[tf.Variable], Sequence[Sequence[Any]]], Sequence[Any]
]


# Adam's second moment is the squared gradient in float32, which must not overflow.
_LARGEST_SQUARED = float(np.sqrt(np.finfo(np.float32).max))
# Above this norm, squares that underflow (below 1.2e-38) are negligible: 10^9 sum to 1e-29.
_SMALLEST_EXACT_NORM = 1e-11


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Euclidean norm over all gradients, a float64 scalar; not finite if a gradient is not.

    In float32, squares of values above 1.8e19 overflow, and those of values below 1e-19 underflow.
    In these cases the gradients are divided by the largest value first, as in the BLAS function
    nrm2.

    Args:
      gradients: float32, of any shapes.
    """

    def scaled() -> tf.Tensor:
        largest = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(g)) for g in gradients]))
        # The norm of zeros is zero. NaN stays NaN, and an infinite value gives NaN.
        norm = tf.linalg.global_norm([tf.math.divide_no_nan(g, largest) for g in gradients])
        return tf.cast(norm, tf.float64) * tf.cast(largest, tf.float64)

    norm = tf.linalg.global_norm(gradients)
    exact = tf.math.is_finite(norm) & (norm > _SMALLEST_EXACT_NORM)
    return tf.cond(exact, lambda: tf.cast(norm, tf.float64), scaled)


def clip_scale(norm: tf.Tensor, clip_norm: float | None) -> tf.Tensor:
    """The factor that clips a gradient to `clip_norm`, a float32 scalar.

    Args:
      norm: Global norm of the gradient, a float scalar.
      clip_norm: None disables clipping.

    Returns:
      0 if the update must be skipped: the norm is not finite, or the square of the clipped gradient
      overflows in float32, which would make Adam's second moment infinite forever.

    References:
      Pascanu et al. 2013, https://arxiv.org/abs/1211.5063.
    """
    limit = norm if clip_norm is None else tf.constant(clip_norm, norm.dtype)
    scale = tf.math.divide_no_nan(limit, tf.maximum(norm, limit))
    scale = tf.where(norm > 0, scale, tf.ones_like(scale))
    usable = tf.math.is_finite(norm) & (norm * scale < _LARGEST_SQUARED)
    return tf.where(usable, tf.cast(scale, tf.float32), 0.0)


class AdamW:
    """Adam with decoupled weight decay, https://arxiv.org/abs/1711.05101, and averaged weights.

    As in Keras and PyTorch, the decay is multiplied by the learning rate. Call `build` inside the
    scope of the runtime before the first step is traced.

    Args:
      config: `weight_decay`, `beta_1`, `beta_2`, `epsilon`, `layer_decay` and `ema_momentum` are
        used.

    Attributes:
      iterations: Number of steps, including skipped ones. The schedule and dropout depend on it.
      applied_updates: Number of applied updates. Bias correction depends on it: a skipped step must
        not count towards the age of the moments.
    """

    def __init__(self, config: OptimConfig) -> None:
        self._config = config
        self._parameters: list[keras.Variable] = []
        self._learning_rate_factors: list[float] = []
        self._momentum: list[keras.Variable] = []
        self._velocity: list[keras.Variable] = []
        self._average: list[keras.Variable] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the counters and, per parameter, two moments and an average, in float32.

        Args:
          variables: All variables of the model. The trainable ones are its parameters.
        """
        self.iterations = _counter("iterations")
        self.applied_updates = _counter("applied_updates")
        factors = learning_rate_factors([v.path for v in variables], self._config.layer_decay)
        trained = [(v, f) for v, f in zip(variables, factors, strict=True) if v.trainable]
        self._parameters = parameters = [v for v, _ in trained]
        self._learning_rate_factors = [f for _, f in trained]
        self._momentum = [_slot(p, "momentum") for p in parameters]
        self._velocity = [_slot(p, "velocity") for p in parameters]
        if self._config.ema_momentum is not None:
            self._average = [_slot(p, "average") for p in parameters]

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """The state by name: the two counters, `momentum/PATH`, `velocity/PATH`."""
        named = {"iterations": self.iterations, "applied_updates": self.applied_updates}
        for p, m, v in zip(self._parameters, self._momentum, self._velocity, strict=True):
            named |= {f"momentum/{p.path}": m, f"velocity/{p.path}": v}
        return named

    @property
    def learning_rate_factors(self) -> dict[str, float]:
        """The learning-rate factors by the path of the parameter."""
        return {
            p.path: f for p, f in zip(self._parameters, self._learning_rate_factors, strict=True)
        }

    @property
    def averages(self) -> dict[str, keras.Variable]:
        """The averaged weights by the path of the parameter; empty without averaging."""
        return {p.path: a for p, a in zip(self._parameters, self._average, strict=False)}

    def apply(
        self,
        gradients: Sequence[tf.Tensor],
        *,
        learning_rate: tf.Tensor,
        scale: tf.Tensor,
        applied: tf.Tensor,
        update: Update,
    ) -> Sequence[Any]:
        """Applies one update, in replica context.

        Args:
          gradients: Summed over all replicas, one per parameter, in the order of `build`.
          learning_rate: float32 scalar.
          scale: float32 scalar by which the gradients are multiplied (clipping). 0 skips the
            update: no parameter, moment or average changes, even if gradients are not finite.
          applied: Integer scalar, the number of updates applied before this one.
          update: The runtime's function that changes variables.

        Returns:
          The result of `update`.
        """
        config = self._config
        enabled = tf.cast(scale > 0, tf.float32)
        # With both betas 1 and a learning rate of 0, Adam changes nothing. A skipped update thus
        # needs no branch, which replicas could not take inside tf.distribute.
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
        ) -> list[Any]:
            own_rate = rate * factor
            if decay:
                variable.assign_sub(variable * (own_rate * decay))
            adam = tf.raw_ops.ResourceApplyAdam(
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
            if average is None:
                return [adam]
            return [adam, average.assign_sub((average - variable) * average_rate, read_value=False)]

        decays_by = [config.weight_decay if decays(p) else 0.0 for p in self._parameters]
        slots = [[s.value for s in slots] for slots in (self._momentum, self._velocity)]
        averages = [a.value for a in self._average] or [None] * len(self._parameters)
        arguments = zip(
            self._learning_rate_factors, decays_by, gradients, *slots, averages, strict=True
        )
        return update(update_one, [p.value for p in self._parameters], list(arguments))

    def swap_averages(self) -> None:
        """Swaps weights and averages, so that evaluation uses the averages. Swap again to undo."""
        for parameter, average in zip(self._parameters, self._average, strict=False):
            weight = tf.identity(parameter.value)
            parameter.assign(average.value)
            average.assign(weight)


class LossScale:
    """Dynamic loss scaling for float16, Micikevicius et al., https://arxiv.org/abs/1710.03740.

    It uses gradients that were summed over replicas, so all replicas agree.
    """

    GROW_EVERY_STEPS = 2000
    NAME = "loss_scale"  # prefix of the names of its state

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
        """Halves the scale after a non-finite step, and doubles it after 2,000 finite steps."""
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
    """Momentum after `applied` updates. It grows from a small value to reduce the initial bias.

    min(momentum, (1 + t) / (10 + t)), as in tf.train.ExponentialMovingAverage.
    """
    if momentum is None:
        return tf.constant(1.0)
    t = tf.cast(applied, tf.float32)
    return tf.minimum(momentum, (1.0 + t) / (10.0 + t))
