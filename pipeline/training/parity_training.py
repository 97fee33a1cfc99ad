"""Trains the few steps that parity.py and exact_parity.py compare."""

from __future__ import annotations

import hashlib

import numpy as np
import tensorflow as tf

from pipeline.config import Config
from pipeline.runs.checkpoints.snapshot import read_variables
from pipeline.runtimes.runtime import Runtime
from pipeline.training.assembly import build
from pipeline.training.exact_parity import ExactResult
from pipeline.training.experiment import Experiment
from pipeline.training.parity import STEPS, ParityResult, compare_weights
from pipeline.training.step import TRAIN_SUMS, empty_train_sums


def train_for_parity(config: Config, runtime: Runtime) -> ParityResult:
    """Trains `STEPS` steps. All processes must call it, and all return the same curves.

    Raises:
      SettingsError: The recipe does not match the devices or the data.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    experiment = _start(config, runtime)
    iterator = experiment.train_iterator(0)
    rows = [
        experiment.reduce_sums(experiment.train(iterator, empty_train_sums(), 1).sums)
        for _ in range(STEPS)
    ]
    sums = dict(zip(TRAIN_SUMS, np.transpose(rows), strict=True))
    curves = {name: sums[name] for name in ("gradient_norm", "examples")}
    curves["loss"] = sums["loss"] / np.maximum(sums["examples"], 1)
    return ParityResult(_read_weights(experiment), curves, _rank_difference(experiment))


def train_for_exact_parity(config: Config, runtime: Runtime) -> ExactResult:
    """Trains the first `STEPS` steps of a recipe, or all if it has fewer. All processes must call
    it. Returns what this process trained.

    Raises:
      SettingsError: The recipe does not match the devices or the data.
    """
    experiment = _start(config, runtime)
    iterator = experiment.train_iterator(0)
    hashes, losses = [], []
    for _ in range(min(STEPS, experiment.total_steps)):
        row = experiment.reduce_sums(experiment.train(iterator, empty_train_sums(), 1).sums)
        sums = dict(zip(TRAIN_SUMS, row.tolist(), strict=True))
        losses.append((sums["loss"] / max(sums["examples"], 1)).hex())
        weights = _read_weights(experiment)
        hashes.append([hashlib.sha256(value.tobytes()).hexdigest() for value in weights.values()])
    whole = hashlib.sha256()
    for value in weights.values():
        whole.update(value.tobytes())
    names = [name.removeprefix("model/") for name in weights]
    return ExactResult(whole.hexdigest(), names, hashes, losses)


def _start(config: Config, runtime: Runtime) -> Experiment:
    """Builds the experiment and broadcasts the initial weights."""
    experiment = build(config, runtime)
    if not runtime.is_chief:
        # All processes use the same seed. Overwrite the weights, so that a broken broadcast is
        # detected.
        for group in experiment.variables.values():
            for variable in group.values():
                variable.assign(tf.ones(variable.shape, variable.dtype))
    experiment.broadcast()
    return experiment


def _read_weights(experiment: Experiment) -> dict[str, np.ndarray]:
    groups = [group for group in ("model", "average") if group in experiment.variables]
    return {
        f"{group}/{name}": value
        for group in groups
        for name, value in read_variables(experiment.variables[group]).items()
    }


def _rank_difference(experiment: Experiment) -> float:
    """Largest difference of any process to the chief's weights. Overwrites the weights with those
    of the chief.
    """
    own = _read_weights(experiment)
    experiment.broadcast()
    _, worst, _ = compare_weights(own, _read_weights(experiment))
    return float(np.max(experiment.runtime.all_gather(worst)))
