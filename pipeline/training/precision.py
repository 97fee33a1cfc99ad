"""`train.precision`: what `auto` is on these devices, and whether what is named suits them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.config import Config
from pipeline.runtimes.runtime import Runtime

INSTEAD_OF_SLOW = "Use train.precision=auto or float32"


class Precision(NamedTuple):
    """What `train.precision` comes to.

    Attributes:
      config: The settings, with a precision instead of `auto`.
      note: What `auto` is here, and why; None where the settings name a precision.
      warning: Why the named precision does not suit the devices; None where it does.
    """

    config: Config
    note: str | None = None
    warning: str | None = None


def resolve_precision(config: Config, slow: Sequence[str | None]) -> Precision:
    """Replaces `auto` by a precision: mixed_bfloat16 where every device is fast at it.

    Args:
      config: Of the run.
      slow: By rank, which device is not fast at bfloat16, as a clause; None where all are fast.
    """
    named = config.train.precision
    where = [
        f"{clause} (rank {rank})" if len(slow) > 1 else clause
        for rank, clause in enumerate(slow)
        if clause is not None
    ]
    if named == "auto":
        chosen = "float32" if where else "mixed_bfloat16"
        train = config.train.model_copy(update={"precision": chosen})
        why = where[0] if where else "the devices are fast at bfloat16"
        return Precision(
            config.model_copy(update={"train": train}),
            f"train.precision=auto is {chosen} here: {why}",
        )
    if named == "mixed_bfloat16" and where:
        return Precision(
            config,
            warning=f"train.precision=mixed_bfloat16 does not suit the devices: {where[0]}",
        )
    return Precision(config)


def agree_on_precision(config: Config, runtime: Runtime) -> Precision:
    """`resolve_precision` with the devices of all processes; all must call it, and get the same."""
    if config.train.precision not in ("auto", "mixed_bfloat16"):
        return Precision(config)  # the devices make no difference
    from pipeline.runtimes.bfloat16 import slow_at_bfloat16

    return resolve_precision(config, runtime.all_gather(slow_at_bfloat16()))


def describe_precision(precision: Precision, before: str | None = None) -> Iterator[str]:
    """What somebody who starts a run should know of its precision, in lines.

    Args:
      precision: Of this start.
      before: Of the run's last start, if there was one.
    """
    if precision.note is not None:
        yield precision.note
    if precision.warning is not None:
        yield f"{precision.warning}. {INSTEAD_OF_SLOW}"
    now = precision.config.train.precision
    if before not in (None, now):
        yield f"the run used {before} until now, and continues in {now}"
