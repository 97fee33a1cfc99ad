"""Another data set than a model was trained on, with labels that are the model's classes."""

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

WHOLE = "all"  # split of a data set that is not divided


def describe_other(name: str, config: DataConfig) -> DataConfig | None:
    """The settings that open a data set by what it is; None for class folders without train/.

    Args:
      name: Its folder, file, or the name of a data set.
      config: How the model was trained.

    Raises:
      SettingsError: It does not exist, or could be anything.
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


def open_other(
    name: str, config: DataConfig, classes: Sequence[str], scanned: Any = None
) -> DataSource:
    """Opens a data set by what it is, and matches its classes with the model's by their names.

    It may have some of them only, and in another order. Class folders without train/ above them are
    one split, "all".

    Args:
      name: Its folder, file, or the name of a data set.
      config: How the model was trained.
      classes: The model's.
      scanned: Of `scan_source` in another process; None: all is found out here.

    Raises:
      DataError: It has a class that the model does not know.
      SettingsError: It does not exist, or could be anything.
    """
    described = describe_other(name, config)
    if described is None:
        return _open_class_folders(Path(name).expanduser(), config, classes)
    if described.source == "tfrecord" and describes_labels(Path(described.path or "")):
        # Its own file of class names goes before the label that was class 0 in training.
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
    splits = {key: _relabelled(split, place) for key, split in source.splits.items()}
    return DataSource(tuple(classes), splits, source.image_shape, source.notes)


def _open_class_folders(path: Path, config: DataConfig, classes: Sequence[str]) -> DataSource:
    split, folder = ("test", path / "test") if (path / "test").is_dir() else (WHOLE, path)
    found, notes = open_classes(folder, classes, config)
    return DataSource(tuple(classes), {split: found}, None, notes)


def _labels(classes: Sequence[str]) -> dict[str, int]:
    """The label of each class, by its name and by the form that `class_name` gives it.

    A run from before that form was used may have recorded names with surrounding blanks.
    """
    labels: dict[str, int] = {}
    for names in (classes, list(map(class_name, classes))):
        for label, name in enumerate(names):
            labels.setdefault(name, label)
    return labels


def _relabelled(split: Split, place: npt.NDArray[np.int32]) -> Split:
    return replace(split, labels=place[split.labels])
