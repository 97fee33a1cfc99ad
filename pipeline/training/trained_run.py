"""Opens data for evaluating a trained run, on any machine and runtime.

`vit evaluate` and `vit report` depend only on the run folder and the data set, not on the runtime
that trained the run. Under horovodrun or `vit launch`, this process is one of several. Otherwise it
is a single process with the devices of this machine.
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
from pipeline.training.assembly import EvaluationData
from pipeline.training.data_opening import check_data
from pipeline.training.data_record import (
    check_classes,
    compare_data,
    data_record,
    recorded_first_label,
)


def open_evaluation_data(
    folder: RunFolder, config: Config, runtime: Runtime, other: str | None = None
) -> EvaluationData:
    """Opens the data set of a run, or another one, for evaluation.

    All processes must call it. Only the chief indexes TFRecord files.

    Args:
      folder: The run folder. It provides the mean and std of the training data.
      config: The settings of the run. `data.path` is the current path of its data set.
      runtime: Connects the processes.
      other: Path of another data set, whose classes are matched with those of the run by name.

    Raises:
      DataError: The data set of the run is missing, or its classes differ from those of the run; or
        the other data set has a class that the run does not have.
      SettingsError: The other data set does not exist, or its format is not recognized.
    """
    # A label refers to the same class as in training, also in another data set.
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
        _check_path(folder, config)
        return scan_source(config.data)
    described = settings_for(other, config.data)
    return None if described is None else scan_source(described)


def _open(folder: RunFolder, config: Config, other: str | None, scanned: Any) -> EvaluationData:
    facts = folder.dataset()
    if other is None:
        _check_path(folder, config)
        source = open_source(config.data, config.seed, scanned)
        check_classes(folder, source)
    else:
        source = _open_moved(folder, config, other) or open_with_model_classes(
            other, config.data, facts["classes"], scanned
        )
    return EvaluationData(source, tuple(facts["mean"]), tuple(facts["std"]))


def _check_path(folder: RunFolder, config: Config) -> None:
    path = config.data.path
    if path is None and (recorded := ignored_data_path(folder)) is not None:
        raise SettingsError(
            f"{folder.path} or its config.yaml belongs to another user, so its data.path, "
            f"{recorded}, is not used. Set the path of the data set with --data PATH"
        )
    if path is not None and not Path(path).expanduser().exists():
        raise DataError(
            f"the data set of the run is not at {path} (relative to {Path.cwd()}). Set its path "
            "with --data PATH"
        )


def _open_moved(folder: RunFolder, config: Config, other: str) -> DataSource | None:
    """Opens the run's own class folders at a new path, with the validation split of the run.

    If there is no folder train/, the run selected the validation images itself. The folder alone
    therefore does not determine them.

    Returns:
      The data set; None if its images are not those that the run has recorded.
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
