"""The weights of a run that were best on validation, for evaluation and prediction."""

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
    """Puts the best checkpoint into an experiment and returns its step."""
    snapshot = best_snapshot(folder)
    experiment.restore(snapshot)
    return snapshot.step


def best_snapshot(folder: RunFolder) -> Snapshot:
    """The checkpoint that was best on validation, or the newest before the first evaluation.

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
            "weights. Give its `vit train` command again"
        )
    best = TrainingPosition.from_state(newest.state.get("progress"), newest.step).best_step
    if best is None or best == newest.step:
        return newest
    try:
        return store.load(best)
    except CheckpointError as error:
        _LOG.warning("%s; the newest weights are used instead of the best", error)
        return newest


def weights_of(
    config: Config, snapshot: Snapshot, which: Weights = "evaluated"
) -> dict[str, np.ndarray]:
    """The model's weights in a checkpoint, as `load_model` takes them.

    Raises:
      SettingsError: There are no averages, and they are asked for.
    """
    kept = "average" in snapshot.tensors
    if which == "averaged" and not kept:
        raise SettingsError("the run kept no averaged weights: optim.ema_momentum was null")
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
    """The model of a run with its best weights, and their step.

    Args:
      folder: Of the run.
      config: Its settings, of `read_settings`.
      which: evaluated: those that training evaluated, which are averaged where it kept averages
        and `train.evaluate_ema` said so; averaged, plain: these.
      precision: What it computes in, of `train.precision`. Weights are float32.

    Raises:
      SettingsError: The run has no checkpoint, or no averages where they are asked for.
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
