"""Assembles data, model, optimizer and runtime into an experiment."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from pipeline.config import Config
from pipeline.data.batch import check_batch, check_elastic, check_examples
from pipeline.data.decode.problems import SkippedImages
from pipeline.data.sources.source import DataSource
from pipeline.data.split import Color
from pipeline.model.vit import build_vit
from pipeline.optim.optimizer import AdamW, LossScale
from pipeline.optim.parameters import freeze
from pipeline.optim.schedule import plan_schedule
from pipeline.runtimes.agreement import on_all
from pipeline.runtimes.runtime import Runtime
from pipeline.training.data_opening import open_data
from pipeline.training.experiment import Experiment
from pipeline.training.fixed_point import GradientScale
from pipeline.training.plugin_checks import check_loss, check_named_code
from pipeline.training.precision import agree_on_precision
from pipeline.training.reproducibility import check_repeatable
from pipeline.training.step import CompletedSteps


class EvaluationData(NamedTuple):
    """A data set for evaluation, and the mean and std of the run's training data.

    Attributes:
      source: The data set.
      mean, std: Statistics of the pixels per channel, for pixels between 0 and 1.
    """

    source: DataSource
    mean: Color
    std: Color


def build(
    config: Config,
    runtime: Runtime,
    evaluation_data: EvaluationData | None = None,
    on_phase: Callable[[str], None] = lambda phase: None,
    first_label: int | None = None,
) -> Experiment:
    """Opens the data, builds the model and creates the optimizer state.

    Args:
      config: The settings.
      runtime: The runtime.
      evaluation_data: A data set for evaluation, which is not checked for training. None to open
        the data set of the settings for training; the global batch must then be divisible by the
        number of replicas.
      on_phase: Called with a description of each phase that begins.
      first_label: The label of class 0 in TFRecord files that the run has recorded.

    Raises:
      DataError: The data is missing or does not match the recipe.
      SettingsError: The settings do not match each other, the data or the devices.
    """
    if evaluation_data is None:
        check_batch(config, runtime.num_replicas)
        if runtime.is_elastic:
            check_elastic(config)
    config = agree_on_precision(config, runtime).config
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(config.seed)
    else:
        # An earlier training in this process may have been deterministic. Then no step could read
        # the clock.
        disable_op_determinism()
    if evaluation_data is None:
        check_named_code(config, runtime)
        on_phase("reading the data")
        source, mean, std = open_data(config, runtime, first_label)
        on_all(runtime, lambda: check_loss(config, len(source.classes)))
    else:
        source, mean, std = evaluation_data
    examples = next(iter(source.splits.values())).num_examples  # train is the first, if it exists
    if evaluation_data is None:
        check_examples(examples, runtime.num_replicas)
    on_phase("building the model")
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
        gradient_scale = None
        if config.microbatches is not None:
            gradient_scale = GradientScale(len(model.trainable_variables))
        completed = CompletedSteps()
    if evaluation_data is None and config.train.deterministic and config.model.builder:
        on_all(runtime, lambda: check_repeatable(config, model))
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
        gradient_scale,
        completed,
        schedule,
        schedule.total_steps,
        SkippedImages(),
    )
