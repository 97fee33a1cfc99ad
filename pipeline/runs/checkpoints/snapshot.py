"""A run at one step in host memory, and the way between it and variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import SettingsError

_LISTED = 10


@dataclass(frozen=True)
class Snapshot:
    """A run at one step, in host memory.

    Attributes:
      step: Updates done.
      tensors: Arrays by name, by the stem of the file that holds them ("model", "optimizer", ...).
      state: What else the run needs to go on; anything JSON can hold.
    """

    step: int
    tensors: Mapping[str, Mapping[str, np.ndarray]]
    state: Mapping[str, Any]


def read_variables(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Host copies of named variables (anything with `numpy()`)."""
    return {name: np.asarray(variable.numpy()) for name, variable in variables.items()}


def restore_variables(
    variables: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    what: str,
    optional: Callable[[str], bool] = lambda name: False,
) -> None:
    """Assigns each array to the variable of its name.

    Args:
      variables: Anything with `shape` and `assign`, by name.
      arrays: By the same names.
      what: Of what they are, for the error.
      optional: Whether a name may be on one side only; such a variable is left as it is.

    Raises:
      SettingsError: Names or shapes differ; the message lists them, and nothing was assigned.
    """
    only_there = {name for name in arrays.keys() - variables.keys() if not optional(name)}
    only_here = {name for name in variables.keys() - arrays.keys() if not optional(name)}
    both = variables.keys() & arrays.keys()
    wrong = [f"{name}: only in the checkpoint" for name in only_there]
    wrong += [f"{name}: not in the checkpoint" for name in only_here]
    for name in both:
        here, there = tuple(variables[name].shape), arrays[name].shape
        if here != there:
            wrong.append(f"{name}: {there} in the checkpoint, {here} here")
    if wrong:
        more = f"\n  and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        listed = "\n  ".join(sorted(wrong)[:_LISTED])
        raise SettingsError(f"the checkpoint is of another {what}:\n  {listed}{more}")
    for name in both:
        variables[name].assign(arrays[name])
