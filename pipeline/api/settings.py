"""Settings given as a mapping, such as {"train.epochs": 10}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any


def as_overrides(settings: Mapping[str, Any] | None) -> list[str]:
    """The settings in the form of the command line, `section.key=value`.

    A value is text as on the command line, or a number, a boolean, None, a path, a list or a
    mapping.
    """
    return [f"{key}={_text(value)}" for key, value in (settings or {}).items()]


def _text(value: Any) -> str:
    if isinstance(value, PathLike):
        return str(fspath(value))
    return value if isinstance(value, str) else json.dumps(_plain(value))  # JSON is YAML


def _plain(value: Any) -> Any:
    """Lists and mappings with paths as text; a NumPy number as a number of Python."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, PathLike):
        return fspath(value)
    return value.item() if hasattr(value, "item") else value
