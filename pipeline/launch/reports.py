"""The messages between launchers: a Report on one node, and a View of the job.

Both are validated strictly. Their text comes from other nodes and is printed on terminals, so
control characters are escaped during validation.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.printable import printable, printable_lines

# Longer texts are truncated before they are sent.
MAX_NAME_LENGTH, MAX_TEXT_LENGTH = 255, 32_768

_Index = Annotated[int, Field(ge=0, lt=1 << 16)]
_Code = Annotated[int, Field(ge=0, le=255)]
_Identity = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
_Name = Annotated[str, Field(max_length=MAX_NAME_LENGTH), AfterValidator(printable)]
_Fact = Annotated[str, Field(max_length=1 << 19), AfterValidator(printable)]
_Text = Annotated[str, Field(max_length=MAX_TEXT_LENGTH), AfterValidator(printable_lines)]
# An error may quote two facts.
_Error = Annotated[str, Field(max_length=1 << 21), AfterValidator(printable_lines)]
_Failure = tuple[_Code, _Text]

Message = TypeVar("Message", "Report", "View")


@dataclass(frozen=True)
class Report:
    """A launcher's report on its node.

    Attributes:
      index: Index of the node.
      uid: Random identifier of the launcher, which distinguishes it from one before a restart.
      hostname: Name that the node has for itself, for messages.
      facts: Settings that must be equal on all nodes, by their name in messages.
      attempt: Identifier of the attempt that the launcher takes part in, once it has started.
      code: Exit code of the node, once all of its processes have ended.
      failure: Exit code and description of the first process that failed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    index: _Index
    uid: _Identity
    hostname: _Name
    facts: Annotated[dict[_Name, _Fact], Field(max_length=16)]
    attempt: _Identity | None = None
    code: _Code | None = None
    failure: _Failure | None = None


@dataclass(frozen=True)
class View:
    """Node 0's view of the job.

    Attributes:
      attempt: Identifier of the attempt. It changes if node 0's launcher is restarted.
      phase: "other" if the receiver is not part of this attempt and should ask again later.
      missing: Indexes of the nodes that have not arrived.
      codes: Exit codes by node, as in Report.
      failures: Failures by node, as in Report.
      error: Why the attempt cannot continue. Running processes must be ended.
      error_code: Exit code of the launchers in that case.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    attempt: _Identity
    phase: Literal["waiting", "running", "other"]
    missing: list[_Index]
    codes: list[_Code | None]
    failures: list[_Failure | None]
    error: _Error | None = None
    error_code: _Code = 0


_ADAPTERS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Report, View)}


def write(message: Report | View) -> bytes:
    """Serializes a message to JSON."""
    return json.dumps(asdict(message)).encode()


def read(kind: type[Message], data: bytes) -> Message:
    """Parses a message from JSON.

    Raises:
      ValueError: The message is invalid. One line says where.
    """
    try:
        message: Message = _ADAPTERS[kind].validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "JSON"
        raise ValueError(printable(f"{kind.__name__}: {where}: {first['msg']}"[:300])) from None
    return message
