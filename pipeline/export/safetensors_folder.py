"""The safetensors format: a folder with model.safetensors and config.json.

Weights are named by the paths of the model's variables, as in a checkpoint:
vit/block_0/attention/query/kernel. Dense kernels are [in, out].
"""

from __future__ import annotations

from pathlib import Path

import keras
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.errors import SettingsError
from pipeline.export.exported import Exported, known_architecture, wrap_model
from pipeline.export.metadata import (
    MAX_METADATA_BYTES,
    ExportMetadata,
    from_json,
    has_parameter_count,
)
from pipeline.model.vit import VisionTransformer
from pipeline.runs.checkpoints.snapshot import read_variables, restore_variables
from pipeline.storage.folders import make_folder
from pipeline.storage.read import open_file, read_file
from pipeline.storage.write import replace_file

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def write(model: keras.Model, metadata: ExportMetadata, path: Path) -> None:
    """Writes the folder."""
    known_architecture(metadata, "safetensors")
    make_folder(path)
    try:
        save_file(read_variables({v.path: v for v in model.variables}), path / _WEIGHTS)
    except SafetensorError as error:
        raise OSError(f"{_WEIGHTS}: {error}") from None
    replace_file(path / _CONFIG, metadata.to_json())


def recognizes(path: Path) -> bool:
    """Whether a path is a folder in this format."""
    return (path / _WEIGHTS).is_file()


def load(path: Path) -> Exported:
    """Loads a folder that `write` wrote, and builds the network.

    Raises:
      SettingsError: A file is missing or damaged, or the files do not match.
    """
    try:
        content = read_file(path / _CONFIG, limit_bytes=MAX_METADATA_BYTES)
        metadata = from_json(content, str(path / _CONFIG))
        open_file(path / _WEIGHTS).close()  # rejects a FIFO, on which loading would block
        weights = load_file(path / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None
    size = metadata.preprocessing.image_size
    numbers = sum(array.size for array in weights.values())
    if not has_parameter_count(metadata, numbers):
        raise SettingsError(
            f"{path}: {_CONFIG} does not match {_WEIGHTS}, which has {numbers:,} parameters. "
            "Export the run again"
        )
    model = VisionTransformer(
        known_architecture(metadata, "safetensors"), size, len(metadata.classes)
    )
    model.build((None, size, size, 3))
    restore_variables({v.path: v for v in model.variables}, weights, "model")
    return wrap_model(model, metadata)
