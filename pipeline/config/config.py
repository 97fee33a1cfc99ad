"""The whole recipe: all sections together."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from pipeline.config.checkpoint import CheckpointConfig
from pipeline.config.consistency import (
    check_accumulate_steps,
    check_deterministic,
    check_microbatches,
    check_random_crops,
    count_microbatches,
)
from pipeline.config.data import DataConfig
from pipeline.config.distribute import DistributeConfig
from pipeline.config.model import ModelConfig
from pipeline.config.monitor import MonitorConfig
from pipeline.config.optim import OptimConfig
from pipeline.config.run import RunConfig
from pipeline.config.section import Section, setting
from pipeline.config.train import TrainConfig
from pipeline.errors import SettingsError


class Config(Section):
    """All settings of a run."""

    seed: int = setting(
        0,
        "Random seed for initial weights, example order, augmentation and dropout.",
        ge=0,
        lt=2**31,
    )
    run: RunConfig = setting(RunConfig(), "Where the run is stored.")
    data: DataConfig = setting(DataConfig(), "The examples.")
    model: ModelConfig = setting(ModelConfig(), "The network.")
    optim: OptimConfig = setting(OptimConfig(), "The optimizer.")
    train: TrainConfig = setting(TrainConfig(), "The training loop.")
    distribute: DistributeConfig = setting(DistributeConfig(), "Devices and processes.")
    checkpoint: CheckpointConfig = setting(CheckpointConfig(), "The saved state.")
    monitor: MonitorConfig = setting(MonitorConfig(), "What a run shows.")

    @model_validator(mode="after")
    def _check_consistency(self) -> Config:
        problem = (
            check_accumulate_steps(self.data, self.optim)
            or check_random_crops(self.data)
            or check_deterministic(self.train, self.distribute)
            or check_microbatches(self.data, self.optim, self.train, self.distribute)
        )
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def microbatches(self) -> int | None:
        """Number of microbatches of the global batch; None if the workers divide it."""
        if not self.train.deterministic and self.train.microbatches is None:
            return None
        return count_microbatches(self.data, self.optim, self.train)

    @property
    def microbatch_size(self) -> int | None:
        """Number of examples in a microbatch; None without microbatches."""
        number = self.microbatches
        return None if number is None else self.data.global_batch_size // number

    @property
    def run_dir(self) -> Path:
        """The run folder. `load_config` has filled in the default.

        Raises:
          SettingsError: `run.dir` is null, in settings that did not come from `load_config`.
        """
        if self.run.dir is None:
            raise SettingsError("run.dir is not set. Set run.dir=FOLDER")
        return Path(self.run.dir)
