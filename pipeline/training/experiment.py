"""Experiment: data, model, optimizer and runtime of a run in one object."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import Config
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.input import (
    StagesBySize,
    eval_dataset,
    eval_piece_size,
    train_dataset,
)
from pipeline.data.shard import Shard
from pipeline.data.sources.source import DataSource
from pipeline.optim.optimizer import AdamW, LossScale
from pipeline.optim.schedule import Schedule
from pipeline.runs.checkpoints.snapshot import Snapshot, read_variables, restore_variables
from pipeline.runtimes.runtime import Runtime
from pipeline.training.evaluation_step import EvalSteps, make_eval_steps
from pipeline.training.exact_step import (
    ExactGradients,
    make_exact_gradients,
    make_exact_step,
)
from pipeline.training.fixed_point import GradientScale
from pipeline.training.gradients import Gradients, make_gradients
from pipeline.training.input_ahead import reading_ahead
from pipeline.training.metrics import SUMS, check_counted, mean_metrics
from pipeline.training.step import (
    TRAIN_SUMS,
    CompletedSteps,
    Step,
    TrainSteps,
    make_step,
    make_train_steps,
    make_update,
)
from pipeline.training.xla import GradientsChoice, choose_gradients

# Indices of the sums that are global on each process. The others are this process's share.
_GLOBAL_SUMS = [TRAIN_SUMS.index(n) for n in ("gradient_norm", "skipped_updates", "steps")]


class TrainResult(NamedTuple):
    """Result of running several training steps in one call of the graph.

    Attributes:
      sums: Sums of `step.TRAIN_SUMS`, float64 [7], including those passed to the call.
      steps: Number of steps.
      bad_steps: Number of consecutive steps at the end that were not finite and were skipped.
      seconds: Duration of each step, and how long this process waited in it for input and for the
        sum of gradients, float64 [steps, 3]. Zeros with deterministic ops, which do not allow
        reading the clock.
    """

    sums: np.ndarray
    steps: int
    bad_steps: int
    seconds: np.ndarray


@dataclass
class Experiment:
    """All parts of a run.

    Attributes:
      mean, std: Statistics of the pixels per channel, for pixels between 0 and 1.
      gradient_scale: The scale of exact sums of gradients; None without microbatches.
      completed: What the completed steps of a call of `train` have produced.
      total_steps: Number of updates of the whole run.
      skipped: Unreadable images found so far.
      weights_step: Step of the weights that were restored last.
    """

    config: Config
    runtime: Runtime
    source: DataSource
    mean: tuple[float, ...]
    std: tuple[float, ...]
    model: keras.Model
    optimizer: AdamW
    loss_scale: LossScale | None
    gradient_scale: GradientScale | None
    completed: CompletedSteps
    schedule: Schedule
    total_steps: int
    skipped: SkippedImages
    weights_step: int = 0
    _train_stages: StagesBySize = field(default_factory=dict)
    _eval_stages: dict[str, StagesBySize] = field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> Fraction:
        """Updates per epoch. It may be fractional, because batches run across epoch boundaries."""
        examples = self.source.splits["train"].num_examples
        return Fraction(examples, self.config.data.global_batch_size)

    @property
    def checkpoint_bytes(self) -> int:
        """Size of the tensors in a checkpoint."""
        every = [v for group in self.variables.values() for v in group.values()]
        return sum(math.prod(v.shape) * v.value.dtype.size for v in every)

    @property
    def dataset_facts(self) -> dict[str, Any]:
        """Facts about the data that prediction needs; JSON-serializable."""
        counts = {name: split.num_examples for name, split in self.source.splits.items()}
        return {
            "classes": list(self.source.classes),
            "examples": counts,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def train_iterator(self, start_step: int) -> Iterator[Any]:
        """Infinite iterator over training batches, starting with the batch of `start_step`."""

        def make_dataset(index: int, count: int, splits: int) -> tf.data.Dataset:
            return train_dataset(
                self.source.splits["train"],
                self.config.data,
                num_classes=len(self.source.classes),
                mean=self.mean,
                std=self.std,
                seed=self.config.seed,
                start_step=start_step,
                shard=Shard(
                    index, count, splits, self.config.microbatches, self.runtime.is_elastic
                ),
                skipped=self.skipped,
                stages=self._train_stages,
            )

        with reading_ahead():
            return iter(self.runtime.distribute(make_dataset))

    def train(
        self, iterator: Iterator[Any], sums: np.ndarray, steps: int, bad_steps: int = 0
    ) -> TrainResult:
        """Runs `steps` training steps, or fewer if too many consecutive ones are not finite.

        Args:
          iterator: The result of `train_iterator`.
          sums: Sums of `step.TRAIN_SUMS` to add to, float64 [7].
          steps: Number of steps.
          bad_steps: Number of consecutive steps before these that were not finite.
        """
        totals, bad, times_s = self._train_steps(
            iterator,
            tf.constant(sums, tf.float64),
            tf.constant(bad_steps, tf.int32),
            tf.constant(steps, tf.int32),
        )
        times_s = times_s.numpy()
        end_s = time.time() if times_s.any() else 0.0
        durations_s = np.diff(times_s[:, 0], append=end_s)
        seconds = np.column_stack([durations_s, times_s[:, 1:]])
        return TrainResult(totals.numpy(), len(times_s), int(bad), seconds)

    def reduce_sums(self, sums: np.ndarray) -> np.ndarray:
        """Reduces training sums [7, ...] over all processes. All must call it.

        With exact sums of gradients, each process has the sums of all processes already.
        """
        if self.gradient_scale is not None:
            return sums
        total = self.runtime.all_reduce(sums, "sum")
        total[_GLOBAL_SUMS] = sums[_GLOBAL_SUMS]
        return total

    def share_of_sums(self, total: np.ndarray) -> np.ndarray:
        """The inverse of `reduce_sums`: reducing the shares of all processes gives `total`."""
        if self.gradient_scale is not None:
            return total
        own = total if self.runtime.is_chief else np.zeros_like(total)
        own[_GLOBAL_SUMS] = total[_GLOBAL_SUMS]
        return own

    def evaluate(self, split: str, next_steps: Callable[[], int] | None = None) -> dict[str, Any]:
        """Evaluates every example of a split exactly once. All processes must call it.

        Uses the averaged weights if the run has them and `train.evaluate_ema` is true.

        Args:
          split: Name of the split.
          next_steps: Called before each call of the graph, on all processes. Returns the number of
            batches to evaluate and may raise. None to evaluate all batches in one call.

        Returns:
          Loss, accuracy and top-5 accuracy, and the numbers of `examples` that were counted and of
          `skipped_examples` that could not be read.

        Raises:
          DataError: On all processes: no image of the split can be read.
        """
        iterator, steps = self.eval_iterator(split)
        sums, done = np.zeros(len(SUMS)), 0
        with self.averaged_weights():
            while done < steps:
                count = steps if next_steps is None else min(next_steps(), steps - done)
                sums = self._eval_steps(
                    iterator, tf.constant(sums, tf.float64), tf.constant(count, tf.int32)
                ).numpy()
                done += count
        sums = self.runtime.all_reduce(sums, "sum")
        examples, counted = self.source.splits[split].num_examples, int(sums[-1])
        check_counted(split, examples, counted)
        return mean_metrics(sums) | {"examples": counted, "skipped_examples": examples - counted}

    def evaluate_batches(self, split: str, count: int) -> None:
        """Evaluates some batches of a split and drops the result, to compile the graph."""
        iterator, _ = self.eval_iterator(split)
        with self.averaged_weights():
            self._eval_steps(
                iterator, tf.zeros([len(SUMS)], tf.float64), tf.constant(count, tf.int32)
            )

    def eval_batches(self, split: str) -> int:
        """Number of batches in an evaluation of a split."""
        replicas = self.runtime.num_replicas
        piece_size = eval_piece_size(self.config.data, replicas, self.config.microbatch_size or 1)
        return math.ceil(self.source.splits[split].num_examples / (replicas * piece_size))

    def eval_iterator(self, split: str) -> tuple[Iterator[Any], int]:
        """Returns an iterator over batches with every example of a split once, and their number."""
        data = self.config.data

        def make_dataset(index: int, count: int, splits: int) -> tf.data.Dataset:
            return eval_dataset(
                self.source.splits[split],
                data,
                mean=self.mean,
                std=self.std,
                shard=Shard(index, count, splits, may_change=self.runtime.is_elastic),
                skipped=self.skipped,
                block_size=self.config.microbatch_size or 1,
                stages=self._eval_stages.setdefault(split, {}),
            )

        with reading_ahead():
            return iter(self.runtime.distribute(make_dataset)), self.eval_batches(split)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Context in which the model has the weights that evaluation uses.

        These are the averaged weights if the run has them and `train.evaluate_ema` is true.
        """
        averaged = bool(self.optimizer.averages) and self.config.train.evaluate_ema
        if averaged:
            self._swap_averages()
        try:
            yield
        finally:
            if averaged:
                self._swap_averages()

    @cached_property
    def variables(self) -> dict[str, dict[str, keras.Variable]]:
        """All state variables by path, grouped by the checkpoint file that stores them."""
        optimizer = dict(self.optimizer.variables)
        if self.loss_scale is not None:
            optimizer |= self.loss_scale.variables
        if self.gradient_scale is not None:
            optimizer |= self.gradient_scale.variables
        named = {"model": {v.path: v for v in self.model.variables}, "optimizer": optimizer}
        return named | ({"average": self.optimizer.averages} if self.optimizer.averages else {})

    def is_finite(self) -> bool:
        """Whether weights, moments and averages of this process are finite."""
        return bool(self._all_finite())

    def snapshot(self, step: int, state: dict[str, Any]) -> Snapshot:
        """Copies the state of the run after `step` updates to host memory."""
        tensors = {name: read_variables(group) for name, group in self.variables.items()}
        return Snapshot(step, tensors, state)

    def restore(self, snapshot: Snapshot) -> None:
        """Restores the variables of this process from a snapshot.

        Earlier versions did not save the number of applied updates. Their bias correction counted
        every step, so the number of steps is used instead.
        """
        self.weights_step = snapshot.step
        for name, group in self.variables.items():
            arrays = dict(snapshot.tensors.get(name, {}))
            if name == "optimizer" and "iterations" in arrays:
                arrays.setdefault("applied_updates", arrays["iterations"])
            restore_variables(group, arrays, name, optional=_is_optional)

    def broadcast(self, root: int = 0) -> None:
        """Copies the variables of process `root` to every process. All must call it."""
        groups = self.variables.values()
        self.runtime.broadcast([v.value for group in groups for v in group.values()], root)

    def broadcast_scale(self, root: int) -> None:
        """Copies the scale of exact sums of process `root` to every process. All must call it."""
        if self.gradient_scale is not None:
            scale = self.gradient_scale.variables.values()
            self.runtime.broadcast([v.value for v in scale], root)

    @cached_property
    def gradients(self) -> GradientsChoice:
        """The function that computes gradients in training, compiled with XLA or not."""
        parts = self.runtime.parallel_parts

        def make(xla: bool) -> Gradients:
            return make_gradients(self.config, self.model, self.loss_scale, parts, xla=xla)

        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        return choose_gradients(
            self.config, self.runtime, len(self.source.classes), make, on_gpu=on_gpu
        )

    @cached_property
    def _train_steps(self) -> TrainSteps:
        return make_train_steps(
            self.config, self._make_step(), self.optimizer, self.loss_scale, self.completed
        )

    def _make_step(self) -> Step:
        update = make_update(
            self.config, self.runtime, self.optimizer, self.schedule, self.loss_scale
        )
        if (scale := self.gradient_scale) is None:
            return make_step(self.runtime, self.gradients.gradients_of, self.optimizer, update)
        return make_exact_step(self.runtime, self.exact_gradients(), self.optimizer, scale, update)

    def exact_gradients(self) -> ExactGradients:
        """The function that computes the gradients of microbatches."""
        return make_exact_gradients(self.config, self.model, self.loss_scale, self.runtime)

    @cached_property
    def _eval_steps(self) -> EvalSteps:
        return make_eval_steps(self.runtime, self.model, self.config.microbatch_size)

    @cached_property
    def _all_finite(self) -> Any:
        values = [v.value for group in self.variables.values() for v in group.values()]
        floats = [value for value in values if value.dtype.is_floating]

        def all_finite() -> tf.Tensor:
            return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in floats])

        return tf.function(all_finite, autograph=False)

    @cached_property
    def _swap_averages(self) -> Any:
        return tf.function(self.optimizer.swap_averages, autograph=False)


def _is_optional(name: str) -> bool:
    """Whether a variable may be missing in a checkpoint, of another precision or mode."""
    return name.startswith((LossScale.NAME, GradientScale.NAME))
