"""`train.precision`: resolves `auto`, and warns if the precision is slow on the devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.config import Config
from pipeline.runtimes.runtime import Runtime

INSTEAD_OF_SLOW = "Use train.precision=auto or float32"


class Precision(NamedTuple):
    """The resolved precision.

    Attributes:
      config: The settings, with a precision instead of `auto`.
      note: The precision that `auto` selects, and why; None if the settings name a precision.
      warning: Why the precision of the settings is slow on the devices; None if it is not.
    """

    config: Config
    note: str | None = None
    warning: str | None = None


def resolve_precision(config: Config, slow: Sequence[str | None]) -> Precision:
    """Replaces `auto` by mixed_bfloat16 if it is fast on every device, else by float32.

    Args:
      config: The settings.
      slow: For each rank, a clause that names a device with slow bfloat16; None if all are fast.
    """
    requested = config.train.precision
    reasons = [
        f"{clause} (rank {rank})" if len(slow) > 1 else clause
        for rank, clause in enumerate(slow)
        if clause is not None
    ]
    if requested == "auto":
        chosen = "float32" if reasons else "mixed_bfloat16"
        train = config.train.model_copy(update={"precision": chosen})
        why = reasons[0] if reasons else "the devices are fast at bfloat16"
        return Precision(
            config.model_copy(update={"train": train}),
            f"train.precision=auto is {chosen} here: {why}",
        )
    if requested == "mixed_bfloat16" and reasons:
        return Precision(
            config,
            warning=f"train.precision=mixed_bfloat16 is slow on the devices: {reasons[0]}",
        )
    return Precision(config)


def agree_on_precision(config: Config, runtime: Runtime) -> Precision:
    """Resolves the precision with the devices of all processes. All must call it."""
    if config.train.precision not in ("auto", "mixed_bfloat16"):
        return Precision(config)  # it does not depend on the devices
    from pipeline.runtimes.bfloat16 import slow_at_bfloat16

    return resolve_precision(config, runtime.all_gather(slow_at_bfloat16()))


def describe_precision(precision: Precision, before: str | None = None) -> Iterator[str]:
    """Yields messages about the precision for the user who starts a run.

    Args:
      precision: The precision of this start.
      before: The precision of the run's last start; None if there is none.
    """
    if precision.note is not None:
        yield precision.note
    if precision.warning is not None:
        yield f"{precision.warning}. {INSTEAD_OF_SLOW}"
    now = precision.config.train.precision
    if before not in (None, now):
        yield f"the run used {before} until now and continues with {now}"
