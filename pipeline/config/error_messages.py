"""Turns pydantic's errors into messages: where a setting is, what is wrong, and what to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from pipeline.config.lookup import type_of
from pipeline.config.overrides import COMMAND_LINE
from pipeline.config.suggestions import suggest_setting
from pipeline.config.value_parser import is_section
from pipeline.printable import received, shortened

_MOST_LINES = 20


def explain_errors(
    errors: Sequence[Mapping[str, Any]], origin: str, origins: Mapping[str, str]
) -> list[str]:
    """Returns one line per error; each line starts with the place of the setting.

    Args:
      errors: From a ValidationError.
      origin: Where settings come from that are not in `origins`.
      origins: File and line, or `COMMAND_LINE`, by dotted key.
    """
    lines = []
    for error in errors[:_MOST_LINES]:
        place = _place(error, origins) or origin
        if error["type"] == "extra_forbidden":
            # For an unknown section, pydantic reports the section; show the key as it was typed.
            typed = [key for key in origins if key.startswith(f"{_key(error)}.")]
            key = typed[0] if typed and place == COMMAND_LINE else _key(error)
            text = _explain_unknown(key, error, in_file=place != COMMAND_LINE)
        else:
            text = _explain(error)
        lines.append(f"{place}: {text}")
    if len(errors) > _MOST_LINES:
        lines.append(f"{origin}: and {len(errors) - _MOST_LINES:,} more")
    return lines


def _place(error: Mapping[str, Any], origins: Mapping[str, str]) -> str | None:
    if _concerns_several_settings(error):
        named = [(key, place) for key, place in origins.items() if key in error["msg"]]
        # Prefer the command line, which was written last. Then prefer a setting to its section.
        named.sort(key=lambda pair: (pair[1] == COMMAND_LINE, len(pair[0])))
        if named:
            return named[-1][1]
    parts = [str(part) for part in error["loc"]]
    keys = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    below = (key for key in origins if key.startswith(f"{keys[0]}.")) if keys else ()
    return next((origins[key] for key in (*keys, *below) if key in origins), None)


def _concerns_several_settings(error: Mapping[str, Any]) -> bool:
    """Whether a check of a whole section failed. Its message names the settings."""
    of_section = not error["loc"] or is_section(type_of(_key(error)))
    return of_section and isinstance(error["input"], (dict, BaseModel))


def _key(error: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in error["loc"])


def _explain(error: Mapping[str, Any]) -> str:
    key = _key(error)
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if _concerns_several_settings(error):
        return message
    if is_section(kind := type_of(key)):
        message += f", for example {key}.{next(iter(kind.model_fields))}"
    wrong = "null" if error["input"] is None else received(error["input"])
    return f"{shortened(key)}: {message}. Received: {wrong}"


def _explain_unknown(key: str, error: Mapping[str, Any], *, in_file: bool) -> str:
    if key == "base":
        return "base: not a setting; only a recipe file can have `base:`, to inherit from a file"
    dotted = in_file and any("." in str(part) for part in error["loc"])
    if dotted and type_of(key) is not None:
        *sections, name = key.split(".")
        inner = "".join(f"{{{section}: " for section in sections[1:])
        nested = f"{sections[0]}: {inner}{{{name}: {shortened(str(error['input']))}}}" + "}" * len(
            sections[1:]
        )
        return f"{key}: in a file, a setting belongs inside its section: write `{nested}`"
    suggestion = suggest_setting(key)
    if suggestion is None:
        return f"{shortened(key)}: no such setting; `vit train --help` lists all settings"
    return f"{shortened(key)}: no such setting; did you mean {suggestion}?"
