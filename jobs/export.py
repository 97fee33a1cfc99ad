"""`vit export RUN`"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from jobs.cli import run_process
from jobs.run_settings import add_setting_argument
from pipeline.export.packages import NEEDED, require
from pipeline.runs.folder import RunFolder
from pipeline.runs.links import check_links
from pipeline.runs.saved_settings import ignored_data_path, read_settings
from pipeline.runtimes.tensorflow_start import import_tensorflow

_LOG = logging.getLogger(__name__)

# The default path of each format, in the run folder.
_PLACES = {
    "saved_model": "export",
    "onnx": "export.onnx",
    "keras": "export.keras",
    "safetensors": "export-safetensors",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    add = parser.add_argument
    add("run", type=Path, help="run folder")
    add(
        "--format",
        choices=_PLACES,
        default="saved_model",
        help="saved_model: needs TensorFlow only; takes the bytes of PNG, RGB JPEG or grayscale "
        "JPEG files, or pixels (default); onnx: takes pixels, for onnxruntime and others; keras: "
        "takes pixels, built of Keras's own layers, for every backend; safetensors: weights and "
        "a description",
    )
    places = ", ".join(f"RUN/{place}" for place in _PLACES.values())
    add(
        "--out",
        type=Path,
        help=f"file or folder to create (default, depending on the format: {places})",
    )
    add(
        "--weights",
        choices=("evaluated", "averaged", "plain"),
        default="evaluated",
        help="evaluated: the weights that training evaluated (default); averaged: the average of "
        "optim.ema_momentum; plain: the weights without averaging",
    )
    add_setting_argument(parser)
    parser.epilog = (
        "The exported model returns class names and probabilities. Normalization and softmax are\n"
        "part of it. Pixels are uint8 [B, S, S, 3], upright, cropped and resized. The model is\n"
        "loaded again after it is written, and is kept only if its answers equal those of the\n"
        "run, on generated images and, if they are still there, on some of the run's own. The\n"
        "training data is not needed."
    )


def run(arguments: argparse.Namespace) -> int:
    """Exports the weights with the best validation result."""
    folder = RunFolder(arguments.run)
    check_links(folder.path)
    config = read_settings(
        folder, arguments.given, trust_code=arguments.trust_code, needs=("model.builder",)
    )
    dataset = folder.dataset()
    form = arguments.format
    require(*NEEDED.get(form, ()))
    out = arguments.out or folder.path / _PLACES[form]
    import_tensorflow()
    from pipeline.data.sources.source import with_first_label
    from pipeline.export.exported import ExportError, wrap_model
    from pipeline.export.metadata import ExportMetadata
    from pipeline.export.run_comparison import compare_with_run
    from pipeline.export.write import check_out, export, find_working_format
    from pipeline.training.best_weights import load_model
    from pipeline.training.data_record import recorded_first_label

    data = with_first_label(config.data, recorded_first_label(folder))
    config = config.model_copy(update={"data": data})
    check_out(form, out)
    model, step = load_model(folder, config, arguments.weights)
    metadata = ExportMetadata.of_run(config, dataset, model.arch, step)
    reference, images = compare_with_run(
        config, wrap_model(model, metadata), ignored_data_path(folder)
    )
    try:
        difference = export(form, model, metadata, out, reference)
    except ExportError as error:
        working = find_working_format(form, model, metadata, reference)
        advice = f"--format {working} works for this run" if working else "no other format works"
        raise ExportError(f"{error}. {advice}") from None
    print(
        f"{out}: {len(metadata.classes)} classes, weights of step {step}; loaded again, {images} "
        f"within {difference:.1e} of the run's answers"
    )
    if (precision := config.train.precision) != "float32":
        _LOG.warning(
            "the exported model computes in float32. The run evaluated in %s, so its answers may "
            "differ slightly",
            precision,
        )
    return 0


if __name__ == "__main__":
    run_process(["export", *sys.argv[1:]])
