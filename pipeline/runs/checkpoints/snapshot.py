"""The state of a run in host memory, and copying it from and to variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import SettingsError

_LISTED = 10


@dataclass(frozen=True)
class Snapshot:
    """The state of a run after `step` updates, in host memory.

    Attributes:
      step: Number of updates.
      tensors: Arrays by the name of their variable, grouped by the stem of the file that stores
        them ("model", "optimizer", ...).
      state: Everything else that the run needs to resume; JSON-serializable.
    """

    step: int
    tensors: Mapping[str, Mapping[str, np.ndarray]]
    state: Mapping[str, Any]


def read_variables(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copies named variables (objects with a `numpy` method) to host arrays."""
    return {name: np.asarray(variable.numpy()) for name, variable in variables.items()}


def restore_variables(
    variables: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    what: str,
    optional: Callable[[str], bool] = lambda name: False,
) -> None:
    """Assigns each array to the variable of the same name.

    Args:
      variables: Variables (objects with `shape` and `assign`) by name.
      arrays: Arrays by the same names.
      what: What the variables belong to, for the error message.
      optional: Whether a name may be missing from `variables` or `arrays`. Its variable keeps its
        value.

    Raises:
      SettingsError: Names or shapes differ. The message lists the differences; no variable was
        changed.
    """
    unexpected = {name for name in arrays.keys() - variables.keys() if not optional(name)}
    missing = {name for name in variables.keys() - arrays.keys() if not optional(name)}
    both = variables.keys() & arrays.keys()
    wrong = [f"{name}: only in the checkpoint" for name in unexpected]
    wrong += [f"{name}: not in the checkpoint" for name in missing]
    for name in both:
        expected, found = tuple(variables[name].shape), arrays[name].shape
        if expected != found:
            wrong.append(f"{name}: shape {found} in the checkpoint, {expected} expected")
    if wrong:
        more = f"\n  and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        listed = "\n  ".join(sorted(wrong)[:_LISTED])
        raise SettingsError(f"the checkpoint belongs to a different {what}:\n  {listed}{more}")
    for name in both:
        variables[name].assign(arrays[name])
