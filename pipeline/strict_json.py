"""JSON as defined by RFC 8259, without NaN and Infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Converts a value to JSON. Numbers that are not finite become null.

    Args:
      value: Dicts, lists, tuples, strings, numbers, booleans and None.
      indent: Number of spaces per level; None writes everything on one line.
    """
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Parses JSON. NaN and Infinity, which earlier versions wrote, become None.

    Raises:
      ValueError: The text is not JSON, not UTF-8, or nested too deeply, or has a number with too
        many digits.
    """
    return read_json(text, parse_constant=lambda name: None)


def read_json(text: str | bytes, **options: Any) -> Any:
    """Calls `json.loads`, but raises ValueError for every invalid text.

    Raises:
      ValueError: As for `from_json`.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value
