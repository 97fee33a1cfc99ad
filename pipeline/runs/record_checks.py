"""Validates dataset.json, outcome.json and workers.jsonl, which may come from another user."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_MOST = 1 << 53  # examples or steps
_OUTCOMES = ("done", "stopped", "failed")
_SHOWN = ("loss", "accuracy")  # required in a result; top-5 accuracy is optional


def check_dataset(facts: Mapping[str, Any]) -> None:
    """Validates the contents of dataset.json.

    Raises:
      ValueError: A value is invalid; the message names its key.
    """
    classes = facts["classes"]
    _require("classes", _is_list(classes, str) and bool(classes))
    for key, kind in (("examples", int), ("fingerprints", str)):
        _require(key, _is_mapping(facts.get(key, {}), kind))
    _require("examples", all(0 <= n < _MOST for n in facts.get("examples", {}).values()))
    for key in ("mean", "std"):
        value = facts.get(key, [0.5] * 3)
        _require(key, isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)))
    _require("std", all(n > 0 for n in facts.get("std", [])))
    labels = facts.get("labels", {})
    _require("labels", _is_mapping(labels, int) and labels.get("first", 0) in (0, 1))
    _require("allowed_changes", isinstance(facts.get("allowed_changes", []), list))


def check_outcome(facts: Mapping[str, Any]) -> None:
    """Validates the contents of outcome.json.

    Raises:
      ValueError: A value is invalid; the message names its key.
    """
    _require("outcome", facts["outcome"] in _OUTCOMES)
    _require("message", isinstance(facts.get("message", ""), str))
    _require("exit_code", type(facts.get("exit_code", 0)) is int)
    if facts["outcome"] == "done":
        result = facts.get("result", {})
        _require("result", isinstance(result, dict))
        _require("result", not result or _is_result(result))


def is_worker_change(found: Mapping[str, Any]) -> bool:
    """Whether a line of workers.jsonl is valid."""
    numbers = all(_is_number(found.get(name)) for name in ("time", "pause_s"))
    counts = all(type(found.get(n)) is int and 0 <= found[n] < _MOST for n in ("step", "workers"))
    # The largest time that can be written as a date.
    return numbers and counts and found["time"] < 2**37 and _is_list(found.get("changes"), str)


def _is_result(row: Mapping[str, Any]) -> bool:
    numbers = (*(row.get(name, "") for name in _SHOWN), row.get("top_5_accuracy"))
    return isinstance(row.get("split"), str) and all(n is None or _is_number(n) for n in numbers)


def _require(key: str, is_valid: bool) -> None:
    if not is_valid:
        raise ValueError(f"the value of {key!r} is invalid")


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _is_mapping(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(type(item) is kind for item in value.values())


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < _MOST
    return type(value) is float and math.isfinite(value)
