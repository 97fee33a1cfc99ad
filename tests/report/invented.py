"""Invented runs of any number of classes, for pages that nobody wants to train for."""

import math
from dataclasses import replace

import numpy as np

from pipeline.config import parse_config
from pipeline.report.run_facts import RunFacts
from pipeline.training.predictions import Examples, Predictions


def invented_run(classes, name="invented", side=32, steps=4000, **settings):
    """A run of `classes` (names), its curves, predictions and pictures."""
    tree = {"data": {"source": "image_folder", "path": "photos", "label_smoothing": 0.1}}
    for key, value in settings.items():
        section, _, setting = key.partition("__")
        tree.setdefault(section, {})[setting] = value
    draw = np.random.default_rng(len(classes))
    return RunFacts(
        name=name,
        folder=f"runs/{name}",
        config=parse_config(tree, name),
        rows=list(invented_rows(steps, draw)),
        classes=classes,
        counts={"train": 50 * len(classes), "validation": 5 * len(classes)},
        outcome={"outcome": "done", "result": {}},
        starts=[start(None), start(steps // 3)],
        checkpoints=[steps - 100, steps],
        best_step=steps,
        predictions=invented_predictions(len(classes), steps, draw),
    )


def start(checkpoint_step):
    return {
        "time": "2026-01-02T03:04:05Z",
        "command": ["vit", "train", "image_folder", "data.path=my photos"],
        "host": "node-7",
        "system": "Linux",
        "devices": "8 devices of this machine, mirrored",
        "versions": {"python": "3.12.1", "tensorflow": "2.21.0"},
        "parameters": 22_050_664,
        "total_steps": 4000,
        "checkpoint_step": checkpoint_step,
    }


def invented_rows(steps, draw):
    """Curves that fall and rise as curves do."""
    for step in range(50, steps + 1, 50):
        share = step / steps
        loss = 5 * math.exp(-3 * share) + draw.normal(0, 0.05)
        row = {"step": step, "epoch": step / 100, "split": "train", "loss": loss}
        row |= {"accuracy": 0.8 * share, "top_5_accuracy": 0.6 + 0.3 * share}
        row |= {"learning_rate": 1e-3 * (1 - share), "gradient_norm": 1 + draw.random()}
        row |= {"examples_per_second": 4000 + draw.normal(0, 200)}
        row |= {"input_wait_fraction": 0.02 * draw.random()}
        yield row | {"checkpoint_s": 0.2 if step % 1000 == 0 else 0.0}
        if step % 500 == 0:
            row = {"step": step, "epoch": step / 100, "split": "validation"}
            row |= {"loss": loss * 1.1, "accuracy": 0.75 * share}
            yield row | {"top_5_accuracy": 0.55 + 0.3 * share}


def invented_predictions(num_classes, step, draw, count=None):
    """Three in four are right, and the others are taken for a neighbour."""
    count = count or 20 * num_classes
    k = min(5, num_classes)
    label = draw.integers(0, num_classes, count)
    wrong = draw.random(count) < 0.25
    first = (label + np.where(wrong, draw.choice([1, 2, 7], count), 0)) % num_classes
    top = (first[:, None] + np.arange(k)) % num_classes
    probability = np.sort(draw.dirichlet(np.ones(k + 1), count)[:, :k])[:, ::-1]
    at = top == label[:, None]
    own = np.where(at.any(axis=1), (probability * at).sum(axis=1), 1e-3)
    return Predictions(
        "validation",
        step,
        "",
        index=np.arange(count, dtype=np.int64),
        label=label.astype(np.int32),
        top=top.astype(np.int32),
        probability=probability.astype(np.float32),
        label_probability=own.astype(np.float32),
        loss=-np.log(own).astype(np.float32),
    )


def with_pictures(run, side):
    """The run with pictures of its worst and best examples, and augmented ones."""
    draw = np.random.default_rng(side)
    index = run.predictions.index[run.predictions.worst(18) + run.predictions.best(6)]
    count = min(6, len(run.classes))
    slope = np.linspace(0, 120, side)

    def pictures(*shape):
        level = draw.integers(0, 130, (*shape, 1, 1, 3))
        return (level + slope[:, None, None] / 2 + slope[None, :, None] / 2).astype(np.uint8)

    return replace(
        run,
        examples=Examples(
            index,
            pictures(len(index)),
            [f"photos/validation/a/IMG_{i:05d}_from_the_old_camera.jpg" for i in index],
            pictures(count, 4),
            np.arange(count, dtype=np.int32),
        ),
    )
