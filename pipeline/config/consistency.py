"""Checks that involve settings of more than one section.

Each check returns a message, or None if the settings are consistent. `error_messages` finds the
place of the error by the setting names in the message.
"""

from __future__ import annotations

from pipeline.config.data import DataConfig
from pipeline.config.optim import OptimConfig


def check_accumulate_steps(data: DataConfig, optim: OptimConfig) -> str | None:
    """The batch must be divisible into the parts of gradient accumulation."""
    batch, parts = data.global_batch_size, optim.accumulate_steps
    if batch % parts == 0:
        return None
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    nearest = sorted(divisors, key=lambda n: abs(n - parts))[:3]
    return (
        f"optim.accumulate_steps must divide data.global_batch_size={batch}, "
        f"for example {', '.join(map(str, sorted(nearest)))}. Received: {parts}"
    )


def check_random_crops(data: DataConfig) -> str | None:
    """Random crops have different sizes, so they need resizing."""
    if data.resize != "none" or data.augment.resized_crop_min_area is None:
        return None
    return (
        "data.augment.resized_crop_min_area crops boxes of different sizes, which "
        "data.resize=none does not resize. Set data.resize=squash or data.resize=crop, or set "
        "data.augment.resized_crop_min_area=null"
    )
