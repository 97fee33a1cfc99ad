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
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.encode import encode_image, to_png
from pipeline.data.split import Split
from pipeline.errors import DataError
from pipeline.train.run_folder import RunFolder

_COMPARED = 32  # images that the exported model must answer as the run's does

# Of each format, its default place in the run folder.
_PLACES = {
    "saved_model": "export",
    "onnx": "export.onnx",
    "keras": "export.keras",
    "safetensors": "export-safetensors",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--format",
        choices=_PLACES,
        default="saved_model",
        help="saved_model: for TensorFlow alone, JPEG or PNG bytes in, or pixels (default); onnx: "
        "pixels in, for onnxruntime and others; keras: pixels in, of Keras's own layers, for any "
        "backend; safetensors: weights and facts",
    )
    places = ", ".join(f"RUN/{place}" for place in _PLACES.values())
    parser.add_argument(
        "--out", type=Path, help=f"file or folder to make (default, by format: {places})"
    )
    parser.add_argument(
        "--weights",
        choices=("evaluated", "averaged", "plain"),
        default="evaluated",
        help="evaluated: as training evaluated them (default); averaged: optim.ema_momentum's; "
        "plain: those without averaging",
    )
    parser.epilog = (
        "Class names and probabilities come out, and normalisation and softmax are inside.\n"
        "Pixels are uint8 [B, S, S, 3], cut out and resized. What was written is loaded again,\n"
        "and is kept only if it answers as the run does."
    )


def run(arguments: argparse.Namespace) -> int:
    """Exports the weights that were best on validation."""
    folder = RunFolder(arguments.run)
    config, dataset = folder.config(), folder.dataset()
    out = arguments.out or folder.path / _PLACES[arguments.format]
    import_tensorflow()
    from pipeline.data.images import load_image
    from pipeline.data.sources.source import open_source
    from pipeline.export.exported import of_model
    from pipeline.export.facts import ExportFacts
    from pipeline.export.write import Compared, check_out, export
    from pipeline.train.best import load_model

    check_out(arguments.format, out)
    model, step = load_model(folder, arguments.weights)
    facts = ExportFacts.of_run(config, dataset, model.arch, step)
    source = open_source(config.data, config.seed)
    split = next(source.splits[s] for s in ("test", "validation", "train") if s in source.splits)
    contents = list(islice(_readable_images(split, config.data.max_pixels), _COMPARED))
    # As `vit predict` does it.
    pixels = np.stack([load_image(c, split.title, config.data) for c in contents])
    compared = Compared(contents, pixels, of_model(model, facts).answer(pixels))
    difference = export(arguments.format, model, facts, out, compared)
    print(
        f"{out}: {len(facts.classes)} classes, weights of step {step}; loaded again, "
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
