"""Predicts a whole split, and draws example pictures for the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from pipeline.data.images import bad_images_named, load_example
from pipeline.data.input import augmented_examples
from pipeline.data.split import first_of_classes
from pipeline.errors import PipelineError
from pipeline.runtimes.runtime import Batch
from pipeline.training.evaluation_step import map_blocks
from pipeline.training.experiment import Experiment
from pipeline.training.metrics import TOP_K, top_classes
from pipeline.training.predictions import Examples, Pixels, Predictions

SIDE = 112  # maximum size of a picture in pixels, which is its size in the report

_WORST, _BEST = 18, 6
_AUGMENTED, _EPOCHS = 6, 4
# For up to this many batches on one device, eager execution is faster than tracing a graph.
_FEW_BATCHES = 8


class PredictionError(PipelineError):
    """The prediction of a split failed."""


def predict(experiment: Experiment, split: str, data: str = "") -> Predictions:
    """Predicts every example of a split with the weights that evaluation uses.

    All processes must call it.

    Args:
      experiment: The experiment, with the weights restored.
      split: Name of the split.
      data: Fingerprint of the split, which is stored in the result.

    Raises:
      PredictionError: On all processes, if one failed, for example because an image cannot be read.
        It has the exit code of the cause.
    """
    k = min(TOP_K, len(experiment.source.classes))
    own, problem = [], None
    try:
        with bad_images_named():
            own = _own_rows(experiment, split, k)
    except Exception as error:  # the other processes wait for this one in any case
        problem = str(error), getattr(error, "exit_code", PredictionError.exit_code)
    parts = experiment.runtime.all_gather([problem, own])
    problems = [problem for problem, _ in parts if problem is not None]
    if problems:
        message, exit_code = problems[0]
        failed = PredictionError(f"cannot predict {split}: {message}")
        failed.exit_code, failed.said_by_chief = exit_code, True
        raise failed
    table = np.array([row for _, rows in parts for row in rows]).reshape(-1, 5 + 2 * k)
    table = table[np.argsort(table[:, 1])]
    fixed, top, probability = np.split(table, [5, 5 + k], axis=1)
    return Predictions(
        split,
        experiment.weights_step,
        data,
        index=fixed[:, 1].astype(np.int64),
        label=fixed[:, 2].astype(np.int32),
        top=top.astype(np.int32),
        probability=probability.astype(np.float32),
        label_probability=fixed[:, 3].astype(np.float32),
        loss=fixed[:, 4].astype(np.float32),
    )


def draw_examples(experiment: Experiment, predictions: Predictions) -> Examples:
    """Draws the pictures of a report: worst and best predictions, and augmented training images.

    Raises:
      DataError: An image cannot be read.
    """
    config, source = experiment.config.data, experiment.source
    split, train = source.splits[predictions.split], source.splits["train"]
    rows = predictions.worst(_WORST) + predictions.best(_BEST)
    index = predictions.index[rows]
    pictures = [
        split.images[i] if split.images is not None else load_example(split, i, config)
        for i in index.tolist()
    ]
    shown = first_of_classes(train.labels, _AUGMENTED)
    with bad_images_named():
        augmented = augmented_examples(
            train, config, seed=experiment.config.seed, epochs=_EPOCHS, indices=shown
        )
    return Examples(
        index,
        np.array([_shrink(picture) for picture in pictures], np.uint8),
        [split.name(i) for i in index.tolist()],
        np.array([[_shrink(picture) for picture in row] for row in augmented]),
        train.labels[shown],
    )


def _shrink(picture: Pixels) -> Pixels:
    """Scales a picture down so that its longer side is at most `SIDE`."""
    scale = SIDE / max(picture.shape[:2])
    if scale >= 1:
        return picture
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height)))


def _own_rows(experiment: Experiment, split: str, k: int) -> list[list[float]]:
    """The rows of `_make_step` for the examples of this process, without padding."""
    iterator, steps = experiment.eval_iterator(split)
    next_rows = _make_step(experiment, k)
    runtime = experiment.runtime
    if steps > _FEW_BATCHES or runtime.num_replicas > 1 or runtime.parallel_parts > 1:
        next_rows = tf.function(next_rows, autograph=False)
    with experiment.averaged_weights():
        rows = np.concatenate([next_rows(iterator).numpy() for _ in range(steps)])
    return rows[rows[:, 0] > 0].tolist()


def _make_step(experiment: Experiment, k: int) -> Callable[[Any], tf.Tensor]:
    """Makes a function that predicts the next batch, one row per example: float64 [b, 5 + 2 k].

    A row has weight, index, label, probability of the label and loss, then the k most probable
    classes and their probabilities. float64 represents every index exactly. If a logit is NaN, the
    classes are -1 and the probabilities NaN.
    """
    config, runtime, model = experiment.config, experiment.runtime, experiment.model

    def rows_of(block: Batch) -> tf.Tensor:
        logits = model(block["image"], training=False)  # [b, C]
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float64))
        # Sort by logits as in training, because small probabilities round to equal values.
        top = top_classes(logits, k)
        top_probabilities = tf.gather(probabilities, tf.maximum(top, 0), batch_dims=1)  # [b, k]
        columns = [
            block["weight"],
            block["index"],
            block["label"],
            tf.gather(probabilities, block["label"], batch_dims=1),
            tf.nn.sparse_softmax_cross_entropy_with_logits(block["label"], logits),
        ]
        wide = [tf.cast(column, tf.float64)[:, None] for column in columns]
        return tf.concat([*wide, tf.cast(top, tf.float64), top_probabilities], axis=1)

    def step(batch: Batch) -> tf.Tensor:
        blocks = map_blocks(
            rows_of, batch, [None, 5 + 2 * k], runtime.parallel_parts, config.microbatch_size
        )
        rows = tf.reshape(blocks, [-1, 5 + 2 * k])
        # `run` sums over the replicas of this process, so each fills only its own block of rows.
        replica = runtime.replica_index() % runtime.local_replicas
        own = tf.one_hot(replica, runtime.local_replicas, dtype=tf.float64)  # [r]
        parts = tf.where(own[:, None, None] > 0, rows[None], 0.0)  # [b, F] -> [r, b, F]
        return tf.reshape(parts, [-1, 5 + 2 * k])  # [r, b, F] -> [r b, F]

    def next_rows(iterator: Any) -> tf.Tensor:
        return runtime.run(step, iterator.get_next())

    return next_rows
