"""The `checkpoint` section."""

from __future__ import annotations

from pipeline.config.section import LONGEST_TIME_S, Section, setting


class CheckpointConfig(Section):
    """When checkpoints are saved, and which ones are kept."""

    every_steps: int | None = setting(
        None, "Number of steps between checkpoints.", may_change=True, ge=1
    )
    every_s: float | None = setting(
        None, "Seconds between checkpoints.", may_change=True, gt=0, le=LONGEST_TIME_S
    )
    every_epochs: float | None = setting(
        1.0, "Number of epochs between checkpoints.", may_change=True, gt=0, le=1e6
    )
    keep: int = setting(
        2,
        "Number of most recent checkpoints to keep, in addition to the best one.",
        may_change=True,
        ge=1,
        le=10**6,
    )
    keep_every_steps: int | None = setting(
        None,
        "Also keep every checkpoint whose step is a multiple of this number.",
        may_change=True,
        ge=1,
    )
    grace_s: float = setting(
        45.0,
        "Seconds from a stop signal until the process must have exited. The scheduler's grace "
        "period and `vit launch --grace-s` must be longer.",
        may_change=True,
        gt=0,
        le=LONGEST_TIME_S,
    )
