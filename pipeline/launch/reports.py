"""What launchers tell each other: a Report of one node, and a View of the job.

Both are read strictly. Text in them comes from other nodes and ends on terminals: control
characters are escaped where it comes in.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.printable import printable, printable_lines

# Longer ones are cut before they are sent.
LONGEST_NAME, LONGEST_TEXT = 255, 32_768

_Index = Annotated[int, Field(ge=0, lt=1 << 16)]
_Code = Annotated[int, Field(ge=0, le=255)]
_Identity = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
_Name = Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(printable)]
_Fact = Annotated[str, Field(max_length=1 << 19), AfterValidator(printable)]
_Text = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(printable_lines)]
# It may quote two facts.
_Error = Annotated[str, Field(max_length=1 << 21), AfterValidator(printable_lines)]
_Failure = tuple[_Code, _Text]

Message = TypeVar("Message", "Report", "View")


@dataclass(frozen=True)
class Report:
    """What one launcher says of its node.

    Attributes:
      index: The node's.
      uid: Drawn anew by each launcher, so that one that was restarted is told from the old one.
      hostname: What the node calls itself; for messages.
      facts: What must be the same on all nodes, by the name that a message gives it.
      attempt: The one that it takes part in, once it has started.
      code: The exit code of its processes, once all have ended.
      failure: Code and description of the first of its processes that failed.
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
    """What node 0 knows of the job.

    Attributes:
      attempt: Another one means that node 0's launcher was started again.
      phase: "other" where the one asking is no part of this attempt, and should ask again later.
      missing: Indexes of the nodes that have not come yet.
      error: Why the attempt cannot go on; processes that run must be ended.
      error_code: The launcher's exit code then.
      codes: By node, as in Report.
      failures: By node, as in Report.
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
    """A message as JSON."""
    return json.dumps(asdict(message)).encode()


def read(kind: type[Message], data: bytes) -> Message:
    """A message from JSON.

    Raises:
      ValueError: It is none, in one line that says where.
    """
    try:
        message: Message = _ADAPTERS[kind].validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "JSON"
        raise ValueError(printable(f"{kind.__name__}: {where}: {first['msg']}"[:300])) from None
    return message
