"""A folder with model.safetensors and config.json: weights and facts for those who build it.

The names of the weights are the paths of the model's variables, as in a checkpoint:
vit/block_0/attention/query/kernel. Dense kernels are [in, out].
"""

from __future__ import annotations

from pathlib import Path

import keras
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.errors import SettingsError
from pipeline.export.description import FACTS_BYTES, ExportFacts, fits, from_json
from pipeline.export.exported import Exported, of_model
from pipeline.model.vit import VisionTransformer
from pipeline.runs.checkpoints.snapshot import read_variables, restore_variables
from pipeline.storage.folders import make_folder
from pipeline.storage.read import open_file, read_file
from pipeline.storage.write import replace_file

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def write(model: keras.Model, facts: ExportFacts, path: Path) -> None:
    """Writes the folder."""
    make_folder(path)
    try:
        save_file(read_variables({v.path: v for v in model.variables}), path / _WEIGHTS)
    except SafetensorError as error:
        raise OSError(f"{_WEIGHTS}: {error}") from None
    replace_file(path / _CONFIG, facts.to_json())


def recognises(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / _WEIGHTS).is_file()


def load(path: Path) -> Exported:
    """Reads what `write` wrote, and builds the network.

    Raises:
      SettingsError: One of its two files is missing, damaged, or does not fit the other.
    """
    try:
        content = read_file(path / _CONFIG, limit_bytes=FACTS_BYTES)
        facts = from_json(content, str(path / _CONFIG))
        open_file(path / _WEIGHTS).close()  # no FIFO, at which loading would wait
        weights = load_file(path / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None
    size = facts.preprocessing.image_size
    numbers = sum(array.size for array in weights.values())
    if not fits(facts, numbers):
        raise SettingsError(
            f"{path}: {_CONFIG} describes another network than the one of the {numbers:,} numbers "
            f"in {_WEIGHTS}. Export the run again"
        )
    model = VisionTransformer(facts.architecture, size, len(facts.classes))
    model.build((None, size, size, 3))
    restore_variables({v.path: v for v in model.variables}, weights, "model")
    return of_model(model, facts)
