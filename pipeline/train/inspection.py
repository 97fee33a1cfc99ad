"""A trained run on this machine: its weights and its data, whatever trained it.

`vit evaluate` and `vit report` depend on the run folder and on the data set only. The settings that
describe the machine that trained do not apply here.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.config import Config, DistributeConfig
from pipeline.data.sources.other import open_other
from pipeline.data.sources.source import DataSource, open_source
from pipeline.errors import DataError
from pipeline.train.data_record import check_classes
from pipeline.train.experiment import Opened
from pipeline.train.run_folder import RunFolder


def inspection_config(config: Config) -> Config:
    """The settings of a run without those that belong to the machine that trained it.

    The runtime is what this process was started as: one of several under horovodrun or
    `vit launch`, else a single process with the devices of this machine.
    """
    data = config.data.model_copy(update={"threads": None, "index_path": None})
    return config.model_copy(update={"data": data, "distribute": DistributeConfig()})


def open_own_data(folder: RunFolder, config: Config) -> Opened:
    """The data set that the run was trained on, with the recorded mean and deviation.

    Args:
      folder: The run folder.
      config: The settings of the run; `data.path` is where the data set is now.

    Raises:
      DataError: It is not here, or its classes are not those of the run.
    """
    path = config.data.path
    if path is not None and not Path(path).expanduser().exists():
        raise DataError(
            f"the data set of the run is not at {path} (looked up from {Path.cwd()}). Name the "
            "place with --data PATH"
        )
    source = open_source(config.data, config.seed)
    check_classes(folder, source)
    return _opened(folder, source)


def open_other_data(folder: RunFolder, config: Config, name: str) -> Opened:
    """Another data set; its classes are matched with those of the run by their names.

    Raises:
      DataError: It has a class that the run does not know.
      SettingsError: It does not exist, or its kind cannot be told.
    """
    return _opened(folder, open_other(name, config.data, folder.dataset()["classes"]))


def _opened(folder: RunFolder, source: DataSource) -> Opened:
    facts = folder.dataset()
    return Opened(source, tuple(facts["mean"]), tuple(facts["std"]))
