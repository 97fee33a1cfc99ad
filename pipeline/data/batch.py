"""Which global batches, and how few examples, replicas can share."""

from __future__ import annotations

import math

from pipeline.config import Config
from pipeline.data.augment.mix import GROUP
from pipeline.errors import SettingsError


def check_batch(config: Config, num_replicas: int) -> None:
    """Refuses a batch that replicas, their parts and the pairs of mixup cannot share equally.

    Raises:
      SettingsError: With the sizes nearest to it that can be.
    """
    batch, parts = config.data.global_batch_size, config.optim.accumulate_steps
    mixes = bool(config.data.mixup_alpha or config.data.cutmix_alpha)
    # A pair is mixed before the replica's batch is cut into parts.
    unit = num_replicas * math.lcm(parts, GROUP if mixes else 1)
    if batch % unit:
        below, above = batch // unit * unit, (batch // unit + 1) * unit
        sizes = f"{below} or {above}" if below else f"{above}"
        pairs = ", and not in pairs, as mixup and CutMix need" if mixes else ""
        raise SettingsError(
            f"data.global_batch_size={batch} does not divide over {num_replicas} "
            f"replica(s) in {parts} part(s) each (optim.accumulate_steps){pairs}. Use {sizes}"
        )
    if num_replicas > 1 and config.train.precision == "mixed_float16":
        raise SettingsError(
            "train.precision=mixed_float16 is not shown to train right on several replicas. Use "
            "mixed_bfloat16, or distribute.runtime=single"
        )


def batch_problem(batch: int, examples: int) -> tuple[str, str] | None:
    """What is wrong with a batch larger than the training set, and what to do; else None."""
    if batch <= examples:
        return None
    return (
        (
            f"data.global_batch_size={batch} is larger than the training set: each step sees its "
            f"{examples:,} images {batch / examples:.3g} times"
        ),
        (
            f"Set data.global_batch_size to {max(1, examples // 10)} or less, for 10 steps or more "
            "in an epoch"
        ),
    )


def check_examples(examples: int, num_replicas: int) -> None:
    """SettingsError where there are more replicas than training examples."""
    if examples < num_replicas:
        raise SettingsError(
            f"{num_replicas} replicas would train on {examples} example(s): start at most "
            f"{examples} worker(s)"
        )
