"""A trained run on this machine: its weights and its data, whatever trained it.

`vit evaluate` and `vit report` depend on the run folder and on the data set only. The runtime is
what this process was started as: one of several under horovodrun or `vit launch`, else a single
process with the devices of this machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.data.sources.class_matching import open_with_model_classes, settings_for
from pipeline.data.sources.source import (
    DataSource,
    open_source,
    scan_source,
    with_first_label,
)
from pipeline.errors import DataError, SettingsError
from pipeline.runs.folder import RunFolder
from pipeline.runs.saved_settings import ignored_data_path
from pipeline.runtimes.agreement import on_all, on_chief
from pipeline.runtimes.runtime import Runtime
from pipeline.training.data_opening import check_data
from pipeline.training.data_record import (
    check_classes,
    compare_data,
    data_record,
    recorded_first_label,
)
from pipeline.training.experiment import Opened


def open_inspected(
    folder: RunFolder, config: Config, runtime: Runtime, other: str | None = None
) -> Opened:
    """The data set that the run was trained on, or another, with the recorded mean and deviation.

    All processes must call it. The chief alone indexes TFRecord files.

    Args:
      folder: The run folder.
      config: The settings of the run; `data.path` is where its data set is now.
      runtime: Joins the processes.
      other: Another data set, whose classes are matched with those of the run by name.

    Raises:
      DataError: The data set of the run is not here, or its classes are not those of the run; or
        the other one has a class that the run does not know.
      SettingsError: The other one does not exist, or its kind cannot be told.
    """
    # In another set too, a label means the class that it meant in training.
    first_label = on_chief(runtime, lambda: recorded_first_label(folder))
    config = config.model_copy(update={"data": with_first_label(config.data, first_label)})
    scanned = None
    if runtime.world_size > 1:
        scanned = on_chief(runtime, lambda: _scan(folder, config, other))
    opened = on_all(runtime, lambda: _open(folder, config, other, scanned))
    check_data(runtime, opened.source)
    return opened


def _scan(folder: RunFolder, config: Config, other: str | None) -> Any:
    if other is None:
        _check_place(folder, config)
        return scan_source(config.data)
    described = settings_for(other, config.data)
    return None if described is None else scan_source(described)


def _open(folder: RunFolder, config: Config, other: str | None, scanned: Any) -> Opened:
    facts = folder.dataset()
    if other is None:
        _check_place(folder, config)
        source = open_source(config.data, config.seed, scanned)
        check_classes(folder, source)
    else:
        source = _open_moved(folder, config, other) or open_with_model_classes(
            other, config.data, facts["classes"], scanned
        )
    return Opened(source, tuple(facts["mean"]), tuple(facts["std"]))


def _check_place(folder: RunFolder, config: Config) -> None:
    path = config.data.path
    if path is None and (recorded := ignored_data_path(folder)) is not None:
        raise SettingsError(
            f"{folder.path} or its config.yaml belongs to another user, so the place of its data "
            f"set, {recorded}, is not taken from it. Name the data set with --data PATH"
        )
    if path is not None and not Path(path).expanduser().exists():
        raise DataError(
            f"the data set of the run is not at {path} (looked up from {Path.cwd()}). Name the "
            "place with --data PATH"
        )


def _open_moved(folder: RunFolder, config: Config, other: str) -> DataSource | None:
    """The run's own class folders at a new place, with the run's validation split.

    Without train/ the run held images out itself, so the folder alone does not say which ones.

    Returns:
      None if the images are not those that the run recorded.
    """
    root = Path(other).expanduser()
    if config.data.source != "image_folder" or not root.is_dir() or (root / "train").is_dir():
        return None
    try:
        source = open_source(config.data.model_copy(update={"path": other}), config.seed)
    except DataError:
        return None
    changes = compare_data(folder.dataset(), data_record(source))
    return source if changes.classes is None and not changes.splits else None
