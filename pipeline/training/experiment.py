"""`build`: the one place where data, model, optimizer and runtime meet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from pipeline.config import Config
from pipeline.data.batch import check_batch, check_examples
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.input import Shard, eval_dataset, train_dataset
from pipeline.data.sources.source import DataSource
from pipeline.data.split import Colour
from pipeline.model.vit import build_vit
from pipeline.optim.optimizer import AdamW, LossScale
from pipeline.optim.parameters import freeze
from pipeline.optim.schedule import Schedule, plan_schedule
from pipeline.runs.checkpoints.snapshot import Snapshot, read_variables, restore_variables
from pipeline.runtimes.agreement import on_all
from pipeline.runtimes.runtime import Runtime
from pipeline.training.data_opening import open_data
from pipeline.training.metrics import SUMS, check_counted, mean_metrics
from pipeline.training.plugin_checks import check_loss, check_named_code
from pipeline.training.precision import agree_on_precision
from pipeline.training.step import (
    TRAIN_SUMS,
    EvalSteps,
    Gradients,
    TrainSteps,
    make_eval_steps,
    make_gradients,
    make_train_steps,
)
from pipeline.training.xla import Choice, choose

# Places of the sums that each process has whole, where it has its part of the others.
_COUNTED_BY_EACH = [TRAIN_SUMS.index(n) for n in ("skipped_updates", "steps")]


class Stretch(NamedTuple):
    """What a stretch of updates gave.

    Attributes:
      sums: Of `step.TRAIN_SUMS`, float64 [7], with those before it.
      steps: Updates done.
      bad_steps: How many of the last of them, in a row, were not finite and were skipped.
      seconds: What each took, and how long in it this process waited for input and for the sum of
        gradients, float64 [steps, 3]; zeros with deterministic ops, which allow no clock.
    """

    sums: np.ndarray
    steps: int
    bad_steps: int
    seconds: np.ndarray


@dataclass
class Experiment:
    """All parts of a run, put together.

    Attributes:
      mean, std: Of the pixels, a channel, in units of 0..1.
      total_steps: Updates of the whole run.
      skipped: Unreadable images met so far.
      weights_step: Of the weights that were restored last.
    """

    config: Config
    runtime: Runtime
    source: DataSource
    mean: tuple[float, ...]
    std: tuple[float, ...]
    model: keras.Model
    optimizer: AdamW
    loss_scale: LossScale | None
    schedule: Schedule
    total_steps: int
    skipped: SkippedImages
    weights_step: int = 0

    @property
    def steps_per_epoch(self) -> Fraction:
        """Updates a pass over the training data, with its fraction: batches cross epochs."""
        examples = self.source.splits["train"].num_examples
        return Fraction(examples, self.config.data.global_batch_size)

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint's tensors."""
        every = [v for group in self.variables.values() for v in group.values()]
        return sum(math.prod(v.shape) * v.value.dtype.size for v in every)

    @property
    def dataset_facts(self) -> dict[str, Any]:
        """What prediction needs to know of the data, for JSON."""
        counts = {name: split.num_examples for name, split in self.source.splits.items()}
        return {
            "classes": list(self.source.classes),
            "examples": counts,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def train_iterator(self, start_step: int) -> Iterator[Any]:
        """Training batches from update `start_step` on, without end."""

        def make_dataset(index: int, count: int, splits: int) -> tf.data.Dataset:
            return train_dataset(
                self.source.splits["train"],
                self.config.data,
                num_classes=len(self.source.classes),
                mean=self.mean,
                std=self.std,
                seed=self.config.seed,
                start_step=start_step,
                shard=Shard(index, count, splits),
                skipped=self.skipped,
            )

        return iter(self.runtime.distribute(make_dataset))

    def train(
        self, iterator: Iterator[Any], sums: np.ndarray, steps: int, bad_steps: int = 0
    ) -> Stretch:
        """Does `steps` updates, or fewer where too many in a row are not finite.

        Args:
          iterator: Of `train_iterator`.
          sums: To add to, of `step.TRAIN_SUMS`, float64 [7].
          steps: How many.
          bad_steps: How many before them were not finite, in a row.
        """
        totals, bad, times_s = self._train_steps(
            iterator,
            tf.constant(sums, tf.float64),
            tf.constant(bad_steps, tf.int32),
            tf.constant(steps, tf.int32),
        )
        times_s = times_s.numpy()
        end_s = time.time() if times_s.any() else 0.0
        took_s = np.diff(times_s[:, 0], append=end_s)
        seconds = np.column_stack([took_s, times_s[:, 1:]])
        return Stretch(totals.numpy(), len(times_s), int(bad), seconds)

    def reduce_sums(self, sums: np.ndarray) -> np.ndarray:
        """The sums, [7, ...], over all processes; every process must call it."""
        total = self.runtime.all_reduce(sums, "sum")
        total[_COUNTED_BY_EACH] /= self.runtime.world_size
        return total

    def share_of_sums(self, total: np.ndarray) -> np.ndarray:
        """What this process goes on from, such that `reduce_sums` of all is `total` again."""
        own = total if self.runtime.is_chief else np.zeros_like(total)
        own[_COUNTED_BY_EACH] = total[_COUNTED_BY_EACH]
        return own

    def evaluate(self, split: str, next_stretch: Callable[[], int] | None = None) -> dict[str, Any]:
        """Loss, accuracy and top-5 accuracy on every example of a split, each counted once.

        Also `examples`, which were counted, and `skipped_examples`, which could not be read. The
        averaged weights are used where they are kept and `train.evaluate_ema` says so.

        Args:
          split: Its name.
          next_stretch: Called before each stretch of batches, on all processes alike; says how
            many to go through, and may raise. None: all at once.

        Raises:
          DataError: On all processes: no image of the split can be read.
        """
        iterator, steps = self.eval_iterator(split)
        sums, done = np.zeros(len(SUMS)), 0
        with self.averaged_weights():
            while done < steps:
                count = steps if next_stretch is None else min(next_stretch(), steps - done)
                sums = self._eval_steps(
                    iterator, tf.constant(sums, tf.float64), tf.constant(count, tf.int32)
                ).numpy()
                done += count
        sums = self.runtime.all_reduce(sums, "sum")
        there, counted = self.source.splits[split].num_examples, int(sums[-1])
        check_counted(split, there, counted)
        return mean_metrics(sums) | {"examples": counted, "skipped_examples": there - counted}

    def eval_batches(self, split: str) -> int:
        """How many batches an evaluation of a split has."""
        data = self.config.data
        batch_size = data.eval_batch_size or data.global_batch_size
        # As eval_dataset does it: rounded up, so that each replica gets an equal part.
        batch_size = math.ceil(batch_size / self.runtime.num_replicas) * self.runtime.num_replicas
        return math.ceil(self.source.splits[split].num_examples / batch_size)

    def eval_iterator(self, split: str) -> tuple[Iterator[Any], int]:
        """Batches that hold every example of a split once, and how many batches there are."""
        data = self.config.data

        def make_dataset(index: int, count: int, splits: int) -> tf.data.Dataset:
            return eval_dataset(
                self.source.splits[split],
                data,
                mean=self.mean,
                std=self.std,
                shard=Shard(index, count, splits),
                skipped=self.skipped,
            )

        return iter(self.runtime.distribute(make_dataset)), self.eval_batches(split)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside, the model has the weights that evaluation uses: where they are kept and
        `train.evaluate_ema` says so, the averaged ones.
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
        """The whole state by the file of the checkpoint that holds it."""
        optimizer = dict(self.optimizer.variables)
        if self.loss_scale is not None:
            optimizer |= self.loss_scale.variables
        named = {"model": {v.path: v for v in self.model.variables}, "optimizer": optimizer}
        return named | ({"average": self.optimizer.averages} if self.optimizer.averages else {})

    def is_finite(self) -> bool:
        """Whether weights, moments and averages are finite in this process."""
        return bool(self._all_finite())

    def snapshot(self, step: int, state: dict[str, Any]) -> Snapshot:
        """The run as it stands after `step` updates, copied to host memory."""
        tensors = {name: read_variables(group) for name, group in self.variables.items()}
        return Snapshot(step, tensors, state)

    def restore(self, snapshot: Snapshot) -> None:
        """Puts this process back to where the snapshot was taken.

        A checkpoint of a version that did not count applied updates has none: its bias correction
        counted every step, so the count continues from its number of steps.
        """
        self.weights_step = snapshot.step
        for name, group in self.variables.items():
            arrays = dict(snapshot.tensors.get(name, {}))
            if name == "optimizer" and "iterations" in arrays:
                arrays.setdefault("applied_updates", arrays["iterations"])
            # float16's scale is in the checkpoints of float16 only.
            restore_variables(
                group, arrays, name, optional=lambda name: name.startswith(LossScale.NAME)
            )

    def broadcast(self) -> None:
        """Gives every process the chief's variables; every process must call it."""
        groups = self.variables.values()
        self.runtime.broadcast([v.value for group in groups for v in group.values()])

    @cached_property
    def gradients(self) -> Choice:
        """The gradients as training computes them, with XLA or without."""
        parts = self.runtime.parallel_parts

        def make(xla: bool) -> Gradients:
            return make_gradients(self.config, self.model, self.loss_scale, parts, xla=xla)

        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        return choose(self.config, self.runtime, len(self.source.classes), make, on_gpu=on_gpu)

    @cached_property
    def _train_steps(self) -> TrainSteps:
        return make_train_steps(
            self.config,
            self.runtime,
            self.gradients.gradients_of,
            self.optimizer,
            self.schedule,
            self.loss_scale,
        )

    @cached_property
    def _eval_steps(self) -> EvalSteps:
        return make_eval_steps(self.runtime, self.model)

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


class Opened(NamedTuple):
    """A data set to inspect weights on, and the mean and deviation of colours, in units of 0..1."""

    source: DataSource
    mean: Colour
    std: Colour


def build(
    config: Config,
    runtime: Runtime,
    opened: Opened | None = None,
    tell: Callable[[str], None] = lambda phase: None,
    first_label: int | None = None,
) -> Experiment:
    """Opens the data, builds the model, and creates the optimizer's state.

    Args:
      config: All settings.
      runtime: What it runs on.
      opened: The data set to inspect weights on; None: what the settings name, to train on. The
        global batch must divide over the replicas only for training.
      tell: Is told of each phase that begins.
      first_label: The label of class 0 in TFRecord files that the run recorded.

    Raises:
      DataError: The data is missing or not what the recipe says.
      SettingsError: Settings do not fit one another, the data or the devices.
    """
    if opened is None:
        check_batch(config, runtime.num_replicas)
    config = agree_on_precision(config, runtime).config
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(config.seed)
    else:
        # An earlier training in this process may have been deterministic. Then no step could read
        # the clock.
        disable_op_determinism()
    if opened is None:
        check_named_code(config, runtime)
        tell("reading the data")
        source, mean, std = open_data(config, runtime, first_label)
        on_all(runtime, lambda: check_loss(config, len(source.classes)))
    else:
        source, mean, std = opened
    examples = next(iter(source.splits.values())).num_examples  # of train, where there is one
    if opened is None:
        check_examples(examples, runtime.num_replicas)
    tell("building the model")
    with runtime.scope():
        model = build_vit(
            config.model,
            image_size=config.data.image_size,
            num_classes=len(source.classes),
            dtype=config.train.precision,
            seed=config.seed,
            recompute=config.train.recompute,
        )
        optimizer = AdamW(config.optim)
        freeze(model.variables, config.optim)
        optimizer.build(model.variables)
        loss_scale = LossScale() if config.train.precision == "mixed_float16" else None
    schedule = plan_schedule(config, examples)
    return Experiment(
        config,
        runtime,
        source,
        mean,
        std,
        model,
        optimizer,
        loss_scale,
        schedule,
        schedule.total_steps,
        SkippedImages(),
    )
