"""The few steps that parity.py compares."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipeline.config import Config
from pipeline.runs.checkpoints.snapshot import read_variables
from pipeline.runtimes.runtime import Runtime
from pipeline.training.experiment import Experiment, build
from pipeline.training.parity import STEPS, Trace, compare_weights
from pipeline.training.step import TRAIN_SUMS, empty_train_sums


def train_briefly(config: Config, runtime: Runtime) -> Trace:
    """Trains `STEPS` steps; every process must call it, and all get the same curves.

    Raises:
      SettingsError: The recipe does not fit the devices or the data.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    experiment = build(config, runtime)
    if not runtime.is_chief:
        # All start from one seed, which would hide that the chief's values do not arrive.
        for group in experiment.variables.values():
            for variable in group.values():
                variable.assign(tf.ones(variable.shape, variable.dtype))
    experiment.broadcast()
    iterator = experiment.train_iterator(0)
    rows = [
        experiment.reduce_sums(experiment.train(iterator, empty_train_sums(), 1).sums)
        for _ in range(STEPS)
    ]
    sums = dict(zip(TRAIN_SUMS, np.transpose(rows), strict=True))
    curves = {name: sums[name] for name in ("gradient_norm", "examples")}
    curves["loss"] = sums["loss"] / np.maximum(sums["examples"], 1)
    return Trace(_read_weights(experiment), curves, _measure_apart(experiment))


def _read_weights(experiment: Experiment) -> dict[str, np.ndarray]:
    return {
        f"{group}/{name}": value
        for group in ("model", "average")
        for name, value in read_variables(experiment.variables[group]).items()
    }


def _measure_apart(experiment: Experiment) -> float:
    """The largest difference to the chief's weights; all processes then have those."""
    own = _read_weights(experiment)
    experiment.broadcast()
    _, worst, _ = compare_weights(own, _read_weights(experiment))
    return float(np.max(experiment.runtime.all_gather(worst)))
