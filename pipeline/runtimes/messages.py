"""Strict messages between processes of a job: frozen dataclasses, sent as JSON.

The dataclasses forbid unknown fields and conversions with `__pydantic_config__ = STRICT`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.printable import printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STRICT = ConfigDict(strict=True, extra="forbid")

Message = TypeVar("Message", bound="DataclassInstance")


def write(message: DataclassInstance) -> bytes:
    """Serializes a message to JSON."""
    return json.dumps(asdict(message)).encode()


def read(kind: type[Message], data: bytes) -> Message:
    """Parses a message from JSON.

    Raises:
      ValueError: The message is invalid. One line says where.
    """
    try:
        message: Message = _adapter(kind).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "JSON"
        raise ValueError(printable(f"{kind.__name__}: {where}: {first['msg']}"[:300])) from None
    return message


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
