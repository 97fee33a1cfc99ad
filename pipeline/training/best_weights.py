"""Loads the weights of a run that were best on validation, for evaluation and prediction."""

from __future__ import annotations

import logging
from typing import Literal

import keras
import numpy as np

from pipeline.config import Config
from pipeline.errors import SettingsError
from pipeline.model.vit import build_vit
from pipeline.runs.checkpoints.snapshot import Snapshot, restore_variables
from pipeline.runs.checkpoints.store import CheckpointError, CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.training.experiment import Experiment
from pipeline.training.position import TrainingPosition

_LOG = logging.getLogger(__name__)

Weights = Literal["evaluated", "averaged", "plain"]


def restore_best(experiment: Experiment, folder: RunFolder) -> int:
    """Restores the best checkpoint into an experiment and returns its step."""
    snapshot = best_snapshot(folder)
    experiment.restore(snapshot)
    return snapshot.step


def best_snapshot(folder: RunFolder) -> Snapshot:
    """Loads the checkpoint that was best on validation, or the newest before the first evaluation.

    Raises:
      SettingsError: The run has no checkpoint yet, or only the random weights of step 0.
    """
    store = CheckpointStore(folder.checkpoints)
    newest = store.newest(_LOG.warning)
    if newest is None:
        raise SettingsError(f"{folder.path} has no checkpoint yet: train it first")
    if newest.step == 0 and folder.config().model.pretrained is None:
        raise SettingsError(
            f"{folder.path} is not trained yet: its only checkpoint is of step 0, with random "
            "weights. Run its `vit train` command again"
        )
    best = TrainingPosition.from_state(newest.state.get("progress"), newest.step).best_step
    if best is None or best == newest.step:
        return newest
    try:
        return store.load(best)
    except CheckpointError as error:
        _LOG.warning("%s; using the newest weights instead of the best", error)
        return newest


def weights_of(
    config: Config, snapshot: Snapshot, which: Weights = "evaluated"
) -> dict[str, np.ndarray]:
    """Selects the model's weights in a checkpoint, by variable path.

    Args:
      config: The settings of the run.
      snapshot: The checkpoint.
      which: As in `load_model`.

    Raises:
      SettingsError: `which` is "averaged", but the run has no averaged weights.
    """
    kept = "average" in snapshot.tensors
    if which == "averaged" and not kept:
        raise SettingsError("the run has no averaged weights: optim.ema_momentum was null")
    averaged = kept and (
        which == "averaged" or (which == "evaluated" and config.train.evaluate_ema)
    )
    return {**snapshot.tensors["model"], **(snapshot.tensors["average"] if averaged else {})}


def load_model(
    folder: RunFolder,
    config: Config,
    which: Weights = "evaluated",
    precision: str = "float32",
) -> tuple[keras.Model, int]:
    """Loads the model of a run with its best weights.

    Args:
      folder: The run folder.
      config: The settings of the run, from `read_settings`.
      which: "averaged" or "plain" weights, or "evaluated": the weights that training evaluated,
        which are the averaged ones if the run has them and `train.evaluate_ema` is true.
      precision: Dtype policy of the computation, a value of `train.precision`. The weights are
        float32 in any case.

    Returns:
      The model, and the step of its weights.

    Raises:
      SettingsError: The run has no checkpoint, or no averaged weights although `which` is
        "averaged".
    """
    facts, snapshot = folder.dataset(), best_snapshot(folder)
    model = build_vit(
        config.model,
        image_size=config.data.image_size,
        num_classes=len(facts["classes"]),
        dtype=precision,
    )
    weights = weights_of(config, snapshot, which)
    restore_variables({v.path: v for v in model.variables}, weights, "model")
    return model, snapshot.step
