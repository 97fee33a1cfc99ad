"""JSON as RFC 8259 defines it, which has no NaN and no Infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Writes a value as JSON; numbers that are not finite become null.

    Args:
      value: Dicts, lists, tuples, strings, numbers, booleans and None.
      indent: Spaces a level; None: everything on one line.
    """
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Reads JSON. NaN and Infinity, which earlier versions wrote, are read as None.

    Raises:
      ValueError: It is not JSON, not UTF-8, nested too deeply, or has a number of too many digits.
    """
    return read_json(text, parse_constant=lambda name: None)


def read_json(text: str | bytes, **options: Any) -> Any:
    """`json.loads`, with a ValueError for whatever is wrong with a text.

    Raises:
      ValueError: As `from_json`.
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
