"""Checks whether replicas can share the global batch and the training set."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.config.consistency import microbatch_unit
from pipeline.errors import SettingsError


def check_batch(config: Config, num_replicas: int) -> None:
    """Refuses a global batch that cannot be divided into equal parts for all replicas.

    Each replica's batch must be divisible by the number of accumulation steps and, with mixup or
    CutMix, into pairs. With microbatches this holds for them instead, and there must be one for
    each replica.

    Raises:
      SettingsError: The message names the nearest possible sizes.
    """
    batch, parts = config.data.global_batch_size, config.optim.accumulate_steps
    mixes = bool(config.data.mixup_alpha or config.data.cutmix_alpha)
    # Pairs are mixed before the replica's batch is split into parts.
    unit = microbatch_unit(config.data, config.optim)
    if config.microbatches is None:
        unit *= num_replicas
    elif batch % unit == 0 and num_replicas > config.microbatches:
        raise SettingsError(
            f"{num_replicas} workers cannot train together: the batch of {batch} is divided into "
            f"{config.microbatches} microbatches, and each worker needs one. Start "
            f"at most {config.microbatches} workers, or set train.microbatches to a larger number "
            "that divides the batch, which changes the result"
        )
    if batch % unit:
        below, above = batch // unit * unit, (batch // unit + 1) * unit
        sizes = f"{below} or {above}" if below else f"{above}"
        pairs = " of complete pairs, which mixup and CutMix need" if mixes else ""
        raise SettingsError(
            f"data.global_batch_size={batch} cannot be divided over {num_replicas} replica(s) "
            f"with {parts} part(s) each (optim.accumulate_steps){pairs}. Use {sizes}"
        )
    if num_replicas > 1 and config.train.precision == "mixed_float16":
        raise SettingsError(
            "train.precision=mixed_float16 has not been verified with several replicas. Use "
            "mixed_bfloat16, or distribute.runtime=single"
        )


def check_elastic(config: Config) -> None:
    """Refuses settings with which the number of workers cannot change.

    Raises:
      SettingsError: The batch has no microbatches.
    """
    if config.microbatches is None:
        raise SettingsError(
            "an elastic job needs microbatches, because the number of its workers changes. Set "
            "train.microbatches to a number that divides data.global_batch_size="
            f"{config.data.global_batch_size}, or set train.deterministic=true"
        )


def batch_problem(batch: int, examples: int) -> tuple[str, str] | None:
    """Returns a problem and its remedy if the batch is larger than the training set, else None."""
    if batch <= examples:
        return None
    return (
        (
            f"data.global_batch_size={batch} is larger than the training set: each step sees its "
            f"{examples:,} images {batch / examples:.3g} times"
        ),
        (
            f"Set data.global_batch_size to {max(1, examples // 10)} or less, for at least 10 "
            "steps per epoch"
        ),
    )


def check_examples(examples: int, num_replicas: int) -> None:
    """Raises SettingsError if there are more replicas than training examples."""
    if examples < num_replicas:
        raise SettingsError(
            f"{num_replicas} replicas would train on {examples} example(s): start at most "
            f"{examples} worker(s)"
        )
