"""Opens a data set with the classes of a trained model, which may come from another data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.data.sources.classes import class_name
from pipeline.data.sources.find_source import find_source, kind_of
from pipeline.data.sources.folder import open_classes
from pipeline.data.sources.label_names import describes_labels
from pipeline.data.sources.records import FACTS
from pipeline.data.sources.source import open_source
from pipeline.data.split import DataSource, Split
from pipeline.errors import DataError

WHOLE = "all"  # the split of a data set that is not divided into splits


def settings_for(name: str, config: DataConfig) -> DataConfig | None:
    """Detects the kind of a data set and returns the settings to open it.

    Args:
      name: A folder, a file, or the name of a data set.
      config: The settings of the model's training.

    Returns:
      The settings; None for a folder of class folders without train/.

    Raises:
      SettingsError: The data set does not exist, or its kind cannot be detected.
    """
    path = Path(name).expanduser()
    found = {"source": config.source, "path": name}
    if (path / FACTS).is_file():
        found["source"] = "records"
    elif not path.exists():
        found = find_source(name)
    elif name != config.path:
        kind = kind_of(path)
        if kind is None and path.is_dir():
            return None
        found["source"] = kind or config.source
    return config.model_copy(update=found)


def open_with_model_classes(
    name: str, config: DataConfig, classes: Sequence[str], scanned: Any = None
) -> DataSource:
    """Opens a data set of any kind, and matches its classes with the model's by name.

    The data set may have only some of the model's classes, in any order. Class folders without
    train/ become one split, "all".

    Args:
      name: A folder, a file, or the name of a data set.
      config: The settings of the model's training.
      classes: The model's class names.
      scanned: The result of `scan_source` in another process; None to scan here.

    Raises:
      DataError: The data set has a class that the model does not know.
      SettingsError: The data set does not exist, or its kind cannot be detected.
    """
    described = settings_for(name, config)
    if described is None:
        return _open_class_folders(Path(name).expanduser(), config, classes)
    if described.source == "tfrecord" and describes_labels(Path(described.path or "")):
        # The data set's own file of class names overrides the label that was class 0 in training.
        described = described.model_copy(update={"first_label": None})
    source = open_source(described, 0, scanned)
    label_of = _labels(classes)
    own = [name if name in label_of else class_name(name) for name in source.classes]
    unknown = sorted(set(own) - set(label_of))
    if unknown:
        raise DataError(
            f"{name} has classes that the model does not know: {', '.join(unknown[:5])}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}. Rename or remove them"
        )
    place = np.array([label_of[name] for name in own], np.int32)
    splits = {key: _relabeled(split, place) for key, split in source.splits.items()}
    return DataSource(tuple(classes), splits, source.image_shape, source.notes)


def _open_class_folders(path: Path, config: DataConfig, classes: Sequence[str]) -> DataSource:
    split, folder = ("test", path / "test") if (path / "test").is_dir() else (WHOLE, path)
    found, notes = open_classes(folder, classes, config)
    return DataSource(tuple(classes), {split: found}, None, notes)


def _labels(classes: Sequence[str]) -> dict[str, int]:
    """Returns the label of each class, by its name and by its name normalized by `class_name`.

    Earlier versions did not normalize names, so a run may have recorded names with blanks around
    them.
    """
    labels: dict[str, int] = {}
    for names in (classes, list(map(class_name, classes))):
        for label, name in enumerate(names):
            labels.setdefault(name, label)
    return labels


def _relabeled(split: Split, place: npt.NDArray[np.int32]) -> Split:
    return replace(split, labels=place[split.labels])
