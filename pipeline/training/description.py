"""Describes a run before it trains: settings, model, learning rate, steps and memory."""

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
    """Three lines about the model, the data, the number of steps and the learning rate."""
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
    """Warnings about settings that work but are probably mistakes, one line each."""
    examples = experiment.source.splits["train"].num_examples
    found = (
        batch_problem(experiment.config.data.global_batch_size, examples),
        warmup_problem(experiment.schedule, experiment.steps_per_epoch),
    )
    return [f"warning: {what}. {remedy}" for what, remedy in filter(None, found)]


def start_facts(
    experiment: Experiment, command: Sequence[str], processors: Sequence[str] = ()
) -> dict[str, Any]:
    """Facts about one start of a run for starts.jsonl: time, command, host, versions, sizes.

    Args:
      experiment: The experiment that starts.
      command: The command line, as a list of arguments that begins with the program.
      processors: The type of processor of each process.
    """
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": list(command),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "devices": experiment.runtime.describe(),
        "processors": sorted(set(processors)),
        "precision": experiment.config.train.precision,
        "versions": versions(),
        "parameters": _parameters(experiment),
        "total_steps": experiment.total_steps,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a run's results, by name."""
    own = {"python": platform.python_version(), "tensorflow": str(tf.__version__)}
    return own | {name: version(name) for name in _PACKAGES}


def describe(experiment: Experiment) -> str:
    """The resolved settings, a table of the model, the headline and a memory estimate."""
    memory = memory_of(experiment)
    lines = [f"  {what:<36} {size / MIB:10,.1f} MiB" for what, size in memory.items()]
    return "\n".join(
        [
            dump_config(experiment.config),
            _table(experiment),
            headline(experiment),
            *warnings_of(experiment),
            f"estimated memory of {_memory_owner()}:",
            *lines,
            f"  {'total':<36} {sum(memory.values()) / MIB:10,.1f} MiB",
            _flops(experiment),
        ]
    )


def _memory_owner() -> str:
    return "a GPU" if tf.config.list_logical_devices("GPU") else "this process"


def _parameters(experiment: Experiment) -> int:
    return count_parameters(experiment.model)


def _trained(experiment: Experiment) -> str:
    """Number of trained parameters, if some are frozen; else empty."""
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
        f"computation per image: forward pass {forward / 1e9:,.3f} GFLOP, "
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
