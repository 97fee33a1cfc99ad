"""Checks that involve settings of more than one section.

Each check returns a message, or None if the settings are consistent. `error_messages` finds the
place of the error by the setting names in the message.
"""

from __future__ import annotations

import math

from pipeline.config.data import DataConfig
from pipeline.config.distribute import DistributeConfig
from pipeline.config.optim import OptimConfig
from pipeline.config.train import TrainConfig

# More microbatches make operations on a CPU less efficient; fewer would limit the workers.
_DEFAULT_MICROBATCHES = 8
_PAIR = 2  # mixup and CutMix mix pairs of examples


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


def microbatch_unit(data: DataConfig, optim: OptimConfig) -> int:
    """The size of a microbatch must be a multiple of this number.

    A microbatch is computed in `optim.accumulate_steps` equal parts, and holds complete pairs if
    mixup or CutMix is on.
    """
    mixes = bool(data.mixup_alpha or data.cutmix_alpha)
    return math.lcm(optim.accumulate_steps, _PAIR if mixes else 1)


def count_microbatches(data: DataConfig, optim: OptimConfig, train: TrainConfig) -> int:
    """The number of microbatches of `train.microbatches`, or its default."""
    if train.microbatches is not None:
        return train.microbatches
    units = data.global_batch_size // microbatch_unit(data, optim)
    return max(n for n in range(1, _DEFAULT_MICROBATCHES + 1) if n == 1 or units % n == 0)


def check_deterministic(train: TrainConfig, distribute: DistributeConfig) -> str | None:
    """Some settings contradict `train.deterministic`."""
    if train.deterministic and distribute.intra_op_threads not in (None, 1):
        return (
            "distribute.intra_op_threads must be 1 or null with train.deterministic=true, because "
            "several threads sum in an order that depends on their number. Received: "
            f"{distribute.intra_op_threads}"
        )
    return None


def check_microbatches(
    data: DataConfig, optim: OptimConfig, train: TrainConfig, distribute: DistributeConfig
) -> str | None:
    """Microbatches must divide the batch, and their gradients are summed as integers."""
    if not train.deterministic and train.microbatches is None:
        return None
    if distribute.compression != "none":
        which = "train.deterministic=true" if train.deterministic else "train.microbatches"
        return (
            "distribute.compression rounds sums in an order that depends on the number of workers, "
            f"which {which} excludes. Set distribute.compression=none. Received: "
            f"{distribute.compression}"
        )
    unit, batch = microbatch_unit(data, optim), data.global_batch_size
    number = count_microbatches(data, optim, train)
    if batch % (number * unit) == 0:
        return None
    allowed = [n for n in range(1, batch + 1) if batch % (n * unit) == 0]
    if not allowed:
        return None  # the check of the batch names the sizes that are possible
    nearest = sorted(sorted(allowed, key=lambda n: abs(n - number))[:3])
    equal = "equal parts" if unit == 1 else f"parts of a multiple of {unit} examples"
    return (
        f"train.microbatches must divide data.global_batch_size={batch} into {equal}, for example "
        f"{', '.join(map(str, nearest))}. Received: {number}"
    )
