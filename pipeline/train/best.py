"""The weights of a run that were best on validation, for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from pipeline.checkpoint import CheckpointStore, Snapshot, restore_variables
from pipeline.errors import SettingsError
from pipeline.model.vit import build_vit
from pipeline.train.experiment import Experiment
from pipeline.train.run_folder import RunFolder


def restore_best(experiment: Experiment, folder: RunFolder) -> int:
    """Puts the best checkpoint into an experiment and returns its step."""
    snapshot = best_snapshot(folder)
    experiment.restore(snapshot)
    return snapshot.step


def best_snapshot(folder: RunFolder) -> Snapshot:
    """The checkpoint that was best on validation, or the newest before the first evaluation.

    Raises:
      SettingsError: The run has no checkpoint yet.
    """
    store = CheckpointStore(folder.checkpoints)
    newest = store.newest(print)
    if newest is None:
        raise SettingsError(f"{folder.path} has no checkpoint yet: train it first")
    best: Any = newest.state["progress"]["best_step"]
    return newest if best is None or best == newest.step else store.load(best)


def load_predictor(folder: RunFolder) -> Callable[[np.ndarray], dict[str, float]]:
    """A function from an image, uint8 [S, S, 3], to probabilities by class, likeliest first.

    Uses the averaged weights where training evaluated them.
    """
    config, facts, snapshot = folder.config(), folder.dataset(), best_snapshot(folder)
    classes: list[str] = facts["classes"]
    model = build_vit(config.model, image_size=config.data.image_size, num_classes=len(classes))
    averaged = config.train.evaluate_ema and "average" in snapshot.tensors
    weights = {**snapshot.tensors["model"], **(snapshot.tensors["average"] if averaged else {})}
    restore_variables({v.path: v for v in model.variables}, weights, "model")
    mean, std = np.float32(facts["mean"]), np.float32(facts["std"])

    def predict(image: np.ndarray) -> dict[str, float]:
        pixels = (image.astype(np.float32) / 255 - mean) / std
        logits = model(pixels[None], training=False)[0]
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        order = np.argsort(-probabilities, kind="stable")
        return {classes[i]: float(probabilities[i]) for i in order}

    return predict
