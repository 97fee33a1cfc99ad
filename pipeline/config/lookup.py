"""Lists all settings, and finds a setting's type or value by its dotted key."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipeline.config.config import Config
from pipeline.config.value_parser import is_section


class Setting(NamedTuple):
    """One setting, as `vit train --help` lists it.

    Attributes:
      key: The dotted key, such as `data.image_size`.
      type: The allowed type or words, as text.
      default: The default value.
      doc: What it does.
      may_change: Whether a run may be resumed with a different value.
    """

    key: str
    type: str
    default: Any
    doc: str
    may_change: bool

    @property
    def default_text(self) -> str:
        """The default as a recipe writes it."""
        if self.default is None:
            return "null"
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return "[]" if self.default == () else str(self.default)


def all_settings(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[Setting]:
    """Yields every setting, in the order of the sections."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if is_section(kind):
            yield from all_settings(kind, f"{prefix}{name}.")
        else:
            extra = field.json_schema_extra
            may_change = isinstance(extra, dict) and bool(extra["may_change"])
            default = None if field.default is PydanticUndefined else field.default
            yield Setting(
                prefix + name, _type_name(kind), default, field.description or "", may_change
            )


def type_of(key: str) -> Any:
    """The type of a setting or section by its dotted key; None if it does not exist."""
    kind: Any = Config
    for part in key.split("."):
        field = kind.model_fields.get(part) if is_section(kind) else None
        if field is None:
            return None
        kind = field.annotation
    return kind


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key such as `data.image_size`."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def training_differences(old: Config, new: Config) -> list[str]:
    """The differences that forbid resuming a run, as lines `key: old -> new`."""
    return [
        f"{s.key}: {value_of(old, s.key)!r} -> {value_of(new, s.key)!r}"
        for s in all_settings()
        if not s.may_change and value_of(old, s.key) != value_of(new, s.key)
    ]


def _type_name(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "|".join(map(str, get_args(kind)))
    if origin in (Union, UnionType):
        return "|".join("null" if k is type(None) else _type_name(k) for k in get_args(kind))
    if origin is Annotated:
        return _type_name(get_args(kind)[0])
    if origin is tuple:
        return f"list of {_type_name(get_args(kind)[0])}"
    return getattr(kind, "__name__", str(kind))
