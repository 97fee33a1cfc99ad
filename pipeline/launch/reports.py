"""The messages between launchers: a Report on one node, a View of the job, and a Role in it.

They are validated strictly. Their text comes from other nodes and is printed on terminals, so
control characters are escaped during validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field

from pipeline.printable import printable, printable_lines
from pipeline.runtimes.messages import STRICT

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
      left: Whether the node has left an elastic job, which continues without it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    index: _Index
    uid: _Identity
    hostname: _Name
    facts: Annotated[dict[_Name, _Fact], Field(max_length=16)]
    attempt: _Identity | None = None
    code: _Code | None = None
    failure: _Failure | None = None
    left: bool = False


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

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attempt: _Identity
    phase: Literal["waiting", "running", "other"]
    missing: list[_Index]
    codes: list[_Code | None]
    failures: list[_Failure | None]
    error: _Error | None = None
    error_code: _Code = 0


@dataclass(frozen=True)
class Role:
    """What a launcher says about its part in the job.

    Attributes:
      attempt: The attempt of the job that it takes part in; None if it has just been started.
      coordinator: Index of the node whose launcher it takes its group from, perhaps its own; None
        if it is looking for one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    attempt: _Identity | None = None
    coordinator: _Index | None = None
