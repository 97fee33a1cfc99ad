"""`vit export RUN`"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.cli import run_process
from pipeline.data.decode.unreadable import UnreadableError
from pipeline.data.encode import encode_image, to_png
from pipeline.data.split import Split
from pipeline.errors import DataError, PipelineError, SettingsError
from pipeline.export.packages import NEEDED, require
from pipeline.runs.folder import RunFolder
from pipeline.runs.links import check_links
from pipeline.runs.saved_settings import add_setting_argument, ignored_data_path, read_settings
from pipeline.runtimes.tensorflow_start import import_tensorflow

if TYPE_CHECKING:
    from pipeline.config import Config, DataConfig
    from pipeline.export.exported import Exported
    from pipeline.export.write import Reference

_LOG = logging.getLogger(__name__)

_COMPARED = 32  # of the run's own images, that the exported model must answer as the run's does

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
        help="saved_model: for TensorFlow alone, bytes of PNG or of RGB or grey JPEG in, or pixels "
        "(default); onnx: pixels in, for onnxruntime and others; keras: pixels in, of Keras's own "
        "layers, for any backend; safetensors: weights and facts",
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
    add_setting_argument(parser)
    parser.epilog = (
        "Class names and probabilities come out, and normalisation and softmax are inside.\n"
        "Pixels are uint8 [B, S, S, 3], upright, cut out and resized. The written model is loaded\n"
        "again, and is kept only if it answers as the run does, on generated images and, where\n"
        "they still are, on some of the run's own. The training data is not needed."
    )


def run(arguments: argparse.Namespace) -> int:
    """Exports the weights that were best on validation."""
    folder = RunFolder(arguments.run)
    check_links(folder.path)
    config, dataset = read_settings(folder, arguments.given), folder.dataset()
    form = arguments.format
    require(*NEEDED.get(form, ()))
    out = arguments.out or folder.path / _PLACES[form]
    import_tensorflow()
    from pipeline.data.sources.source import with_first_label
    from pipeline.export.exported import ExportError, wrap_model
    from pipeline.export.metadata import ExportMetadata
    from pipeline.export.write import check_out, export, find_working_format
    from pipeline.training.best_weights import load_model
    from pipeline.training.data_record import recorded_first_label

    data = with_first_label(config.data, recorded_first_label(folder))
    config = config.model_copy(update={"data": data})
    check_out(form, out)
    model, step = load_model(folder, arguments.weights)
    facts = ExportMetadata.of_run(config, dataset, model.arch, step)
    compared, what = _compared(config, wrap_model(model, facts), ignored_data_path(folder))
    try:
        difference = export(form, model, facts, out, compared)
    except ExportError as error:
        working = find_working_format(form, model, facts, compared)
        advice = f"--format {working} works for this run" if working else "no other format works"
        raise ExportError(f"{error}. {advice}") from None
    print(
        f"{out}: {len(facts.classes)} classes, weights of step {step}; loaded again, {what} within "
        f"{difference:.1e} of the run's answers"
    )
    if (precision := config.train.precision) != "float32":
        print(
            f"vit export: it computes in float32. The run evaluated in {precision}, and its "
            "answers may differ a little",
            file=sys.stderr,
        )
    return 0


def _compared(config: Config, model: Exported, place: str | None) -> tuple[Reference, str]:
    """What the export must answer, and in words what that is.

    Generated images, so that no data set is needed; and some of the run's own if they are still
    where they were.

    Args:
      place: Of the data set, where it may be chosen by another person.
    """
    from pipeline.data.images import load_image
    from pipeline.data.sources.source import open_source
    from pipeline.export.sample_images import sample_images
    from pipeline.export.write import Reference

    contents = sample_images(config.data)
    what = f"{len(contents)} generated images"
    try:
        if place is not None and config.data.path is None:
            raise SettingsError(f"{place} is named by another user's run. --set data.path={place}")
        source = open_source(config.data, config.seed)
    except (PipelineError, OSError) as error:
        # Its advice is about settings that this verb does not take.
        reason = str(error).partition(". ")[0]
        _LOG.warning("compared without the run's data: %s", reason)
    else:
        for note in source.notes:
            _LOG.info("%s", note)
        split = next(
            source.splits[s] for s in ("test", "validation", "train") if s in source.splits
        )
        own = list(islice(_readable_images(split, config.data), _COMPARED))
        contents += own
        if own:
            what += f" and {len(own)} of {split.title}"
        else:
            _LOG.warning("%s: not one image can be read", split.title)
    # As `vit predict` does it.
    pixels = np.stack([load_image(c, "a compared image", config.data) for c in contents])
    return Reference(contents, pixels, model.predict(pixels)), what


def _readable_images(split: Split, config: DataConfig) -> Iterator[bytes]:
    """The images of a split as JPEG or PNG, without those that the run or the export refuses."""
    import tensorflow as tf

    from pipeline.data.decode.header import read_headers
    from pipeline.data.images import load_image

    for i in range(split.num_examples):
        with suppress(OSError, DataError, UnreadableError):
            if split.images is not None:
                content = to_png(split.images[i])
            else:
                content = encode_image(split.content(i), config.max_pixels).content
            load_image(content, split.name(i), config)
            # Pillow reads JPEGs with arithmetic coding, and `encode_image` leaves them as they are.
            if read_headers(tf.constant([content])).by_tensorflow[0]:
                yield content


if __name__ == "__main__":
    run_process(["export", *sys.argv[1:]])
