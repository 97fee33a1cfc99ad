"""Trains Vision Transformers from one recipe, on one device or on many processes.

The Python API:

    run = pipeline.train("image_folder", {"data.path": "photos", "train.epochs": 10})
    run.test.accuracy, run.folder
    pipeline.evaluate(run.folder, split="test")
    model = pipeline.load_model(run.folder)            # a keras.Model with the best weights
    pipeline.predict(run.folder, ["a.jpg", "b.png"])   # class names and probabilities

Errors are exceptions of pipeline.errors. Importing this package imports neither TensorFlow nor
pydantic; the functions are loaded when they are first used.

The packages:

    errors       the ways a run can end, each with its exit code
    recipes      finds the file of a recipe
    splitmix     random bits as a function of integers
    config/      frozen, validated settings
    storage/     files and folders: bounded reads, safe writes
    data/        sources, example order, decoding, augmentation: the tf.data graph
    model/       the Vision Transformer on keras.ops, its variants, published weights
    optim/       learning rate schedule, AdamW, which parameters are trained
    runtimes/    Runtime: how processes and devices cooperate
    launch/      starts processes and lets them find each other
    runs/        the run folder: settings, lock, checkpoints, metrics, outcome
    monitor/     terminal, TensorBoard, watchdog
    training/    the training step, the loop, evaluation, `build`
    report/      HTML pages and plots
    export/      exported models, each compared with its run
    doctor/      checks before training
    plan/        a model of time and memory on N GPUs
    api/         the Python API; the verbs call the same functions

tests/test_architecture.py has the order in which packages may import each other.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api.evaluation import evaluate
    from pipeline.api.prediction import load_model, predict
    from pipeline.api.results import Evaluation, Metrics, Prediction, RunResult
    from pipeline.api.training import train

__all__ = [
    "Evaluation",
    "Metrics",
    "Prediction",
    "RunResult",
    "evaluate",
    "load_model",
    "predict",
    "train",
]

_MODULES = {
    "Evaluation": "results",
    "Metrics": "results",
    "Prediction": "results",
    "RunResult": "results",
    "evaluate": "evaluation",
    "load_model": "prediction",
    "predict": "prediction",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Loads a function of the API when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pipeline.api.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
