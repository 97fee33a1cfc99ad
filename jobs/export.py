"""`vit export RUN`"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np

from jobs.cli import run_process
from jobs.tensorflow_start import import_tensorflow
from pipeline.data.encode import UnreadableError, encode_image, to_png
from pipeline.data.split import Split
from pipeline.errors import DataError
from pipeline.train.run_folder import RunFolder

_COMPARED = 32  # images that the exported model must answer as the run's does


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, help="folder to make (default: RUN/export)")
    parser.add_argument(
        "--weights",
        choices=("evaluated", "averaged", "plain"),
        default="evaluated",
        help="evaluated: as training evaluated them (default); averaged: optim.ema_momentum's; "
        "plain: those without averaging",
    )
    parser.epilog = (
        "Writes a SavedModel that needs TensorFlow alone: JPEG or PNG bytes in (signature "
        "serving_default) or pixels (signature pixels), class names and probabilities out. It is "
        "loaded again, and must answer as the run does."
    )


def run(arguments: argparse.Namespace) -> int:
    """Exports the weights that were best on validation."""
    folder = RunFolder(arguments.run)
    config, facts = folder.config(), folder.dataset()
    out = arguments.out or folder.path / "export"
    import_tensorflow()
    import keras

    from pipeline.data.images import load_image
    from pipeline.data.sources.source import open_source
    from pipeline.export import Classifier, export
    from pipeline.train.best import load_model

    model, step = load_model(folder, arguments.weights)
    classifier = Classifier(model, facts["classes"], config.data, facts["mean"], facts["std"])
    source = open_source(config.data, config.seed)
    split = next(source.splits[s] for s in ("test", "validation", "train") if s in source.splits)
    contents = list(islice(_readable_images(split, config.data.max_pixels), _COMPARED))
    # As `vit predict` does it, image by image.
    pixels = np.stack([load_image(c, split.title, config.data) for c in contents])
    mean, std = np.float32(facts["mean"]), np.float32(facts["std"])
    logits = model((pixels.astype(np.float32) / 255 - mean) / std, training=False)
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    difference = export(classifier, out, contents, expected)
    print(
        f"{out}: {len(facts['classes'])} classes, weights of step {step}; loaded again, "
        f"{len(contents)} images of {split.title} within {difference:.1e} of the run's answers"
    )
    return 0


def _readable_images(split: Split, max_pixels: int) -> Iterator[bytes]:
    """The images of a split as JPEG or PNG, without those that cannot be read."""
    for i in range(split.num_examples):
        if split.images is not None:
            yield to_png(split.images[i])
            continue
        with suppress(OSError, DataError, UnreadableError):
            yield encode_image(split.content(i), max_pixels).content


if __name__ == "__main__":
    run_process(["export", *sys.argv[1:]])
