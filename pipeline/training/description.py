"""A run in words, before it trains: settings, model, rate, steps and memory."""

from __future__ import annotations

import io
import math
import platform
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import tensorflow as tf
from rich.console import Console
from rich.table import Table

from pipeline.config import dump_config
from pipeline.data.batch import batch_problem
from pipeline.model.architecture import architecture
from pipeline.model.cost import count_parameters, count_trainable
from pipeline.model.flops import flops_per_image, training_flops_per_image
from pipeline.optim.schedule import describe_rate, warmup_problem
from pipeline.training.experiment import Experiment
from pipeline.training.memory import memory_of

MIB = 2**20
_PACKAGES = ("vit-pipeline", "keras", "numpy")


def headline(experiment: Experiment) -> str:
    """What is trained on what, in three lines."""
    config, counts = experiment.config, experiment.dataset_facts["examples"]
    sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    network = config.model.builder or config.model.variant
    return (
        f"{network}, {_parameters(experiment):,} parameters{_trained(experiment)}, on "
        f"{config.data.source}: "
        f"{sizes} images of {len(experiment.source.classes)} classes\n"
        f"{experiment.total_steps:,} steps of {config.data.global_batch_size} "
        f"({float(experiment.total_steps / experiment.steps_per_epoch):.4g} epochs) on "
        f"{experiment.runtime.describe()}, {config.train.precision}\n"
        f"{describe_rate(config, experiment.schedule)}"
    )


def warnings_of(experiment: Experiment) -> list[str]:
    """What a run can do but is hardly meant to, a line each, with what to do about it."""
    examples = experiment.source.splits["train"].num_examples
    found = (
        batch_problem(experiment.config.data.global_batch_size, examples),
        warmup_problem(experiment.schedule, experiment.steps_per_epoch),
    )
    return [f"warning: {what}. {remedy}" for what, remedy in filter(None, found)]


def start_facts(experiment: Experiment, command: Sequence[str]) -> dict[str, Any]:
    """What is worth knowing of one start of a run later on, for JSON.

    Args:
      experiment: What is started.
      command: Its arguments, the program first.
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": list(command),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "devices": experiment.runtime.describe(),
        "precision": experiment.config.train.precision,
        "versions": versions(),
        "parameters": _parameters(experiment),
        "total_steps": experiment.total_steps,
    }


def versions() -> dict[str, str]:
    """Of what a run's numbers depend on, by name."""
    own = {"python": platform.python_version(), "tensorflow": str(tf.__version__)}
    return own | {name: version(name) for name in _PACKAGES}


def describe(experiment: Experiment) -> str:
    """The resolved settings, the model's table, the headline and an estimate of memory."""
    memory = memory_of(experiment)
    lines = [f"  {what:<36} {size / MIB:10,.1f} MiB" for what, size in memory.items()]
    return "\n".join(
        [
            dump_config(experiment.config),
            _table(experiment),
            headline(experiment),
            *warnings_of(experiment),
            f"memory of {_whose_memory()}, estimated:",
            *lines,
            f"  {'in all':<36} {sum(memory.values()) / MIB:10,.1f} MiB",
            _flops(experiment),
        ]
    )


def _whose_memory() -> str:
    return "a GPU" if tf.config.list_logical_devices("GPU") else "this process"


def _parameters(experiment: Experiment) -> int:
    return count_parameters(experiment.model)


def _trained(experiment: Experiment) -> str:
    """How many parameters are trained, where some are not."""
    if not experiment.model.non_trainable_variables:
        return ""
    return f" ({count_trainable(experiment.model):,} of them trained)"


def _flops(experiment: Experiment) -> str:
    config = experiment.config
    if config.model.builder is not None:
        return "arithmetic of an image: not known for a model of model.builder"
    network = architecture(config.model), config.data.image_size, len(experiment.source.classes)
    trained = [variable.path for variable in experiment.model.trainable_variables]
    forward, step = flops_per_image(*network), training_flops_per_image(*network, trained)
    return (
        f"arithmetic of an image: forward pass {forward / 1e9:,.3f} GFLOP, "
        f"training step {step / 1e9:,.3f} GFLOP"
    )


def _table(experiment: Experiment) -> str:
    table = Table("parameters", "shape", "count", title="model", title_justify="left")
    factors = experiment.optimizer.learning_rate_factors
    if len(factors) < len(experiment.model.variables) or min(factors.values()) < 1:
        table.add_column("learning rate")
    for variable in experiment.model.variables:
        shape = " x ".join(map(str, variable.shape))
        factor = factors.get(variable.path)
        rate = "frozen" if factor is None else f"x {factor:.3g}"
        row = (variable.path, shape, f"{math.prod(variable.shape):,}", rate)
        table.add_row(*row[: len(table.columns)])
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    return text.getvalue()
