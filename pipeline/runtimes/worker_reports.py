"""The messages of an elastic job: reports of workers, and the view of their group.

    worker   -> its launcher  WorkerReport, answered with a GroupView
    launcher -> coordinator   NodeReport, answered with a GroupView

A worker is a training process. The group are the workers that train together. Its members change in
numbered generations; 1 is the first (launch/group.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field

from pipeline.printable import printable, printable_lines
from pipeline.runtimes.messages import STRICT

MAX_NAME_LENGTH, MAX_TEXT_LENGTH = 255, 8192
# Asks for an answer at once: every view is newer.
NO_VERSION = -1

State = Literal["preparing", "waiting", "running", "leaving", "left"]

_Number = Annotated[int, Field(ge=0, lt=1 << 62)]
_Index = Annotated[int, Field(ge=0, lt=1 << 16)]
_Worker = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
_Name = Annotated[str, Field(max_length=MAX_NAME_LENGTH), AfterValidator(printable)]
_Text = Annotated[str, Field(max_length=MAX_TEXT_LENGTH), AfterValidator(printable_lines)]


@dataclass(frozen=True)
class WorkerReport:
    """What a worker says about itself. Each request is also its heartbeat.

    Attributes:
      sequence: Increases with each change of the report, so that a late request changes nothing.
      version: Version of the view that the worker has. It is answered when there is a newer one.
      state: "preparing" until it can train; "waiting" for a new generation, out of any earlier one;
        "running"; "leaving" if it wants to leave at the next step boundary; "left" once it has.
      generation: The newest generation that the worker has joined, or knows to be broken.
      step: The last completed training step.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    sequence: _Number = 0
    version: Annotated[int, Field(ge=NO_VERSION)] = NO_VERSION
    state: State = "preparing"
    generation: _Number = 0
    step: _Number = 0


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker ended.

    Attributes:
      status: Exit code, or the negative number of the signal that killed it.
      reason: How it ended, as the end of a sentence that begins with the worker.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    status: int
    reason: _Text


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as its launcher knows it.

    Attributes:
      worker: Random identifier of the process.
      slot: Index of its place on the node.
      report: Its last report.
      end: How it ended, or None.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    worker: _Worker
    slot: _Index
    report: WorkerReport
    end: WorkerEnd | None = None


@dataclass(frozen=True)
class NodeReport:
    """What the launcher of a node says about its workers. Each request is also its heartbeat.

    Attributes:
      index: Index of the node.
      launcher: Random identifier of the launcher, which distinguishes it from one before a restart.
      attempt: Identifier of this attempt of the job.
      sequence: Increases with each request, so that a late one changes nothing.
      version: Version of the view that the launcher has, as in WorkerReport.
      workers: The state of all workers of the node.
      generation: The newest generation that the workers of the node may know.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    index: _Index
    launcher: _Worker
    attempt: _Worker
    sequence: _Number
    version: Annotated[int, Field(ge=NO_VERSION)]
    workers: tuple[WorkerStatus, ...]
    generation: _Number = 0


@dataclass(frozen=True)
class Member:
    """A worker in a group.

    Attributes:
      worker: Random identifier of the process.
      node: Index of the node.
      slot: Index of its place on the node.
      host: Name of the node.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    worker: _Worker
    node: _Index
    slot: _Index
    host: _Name


@dataclass(frozen=True)
class GroupView:
    """The group as the coordinator sees it.

    Attributes:
      version: Increases with each change of the view.
      generation: The newest generation; 0 if there is none yet.
      members: Its members, by rank.
      broken: A member is gone. Collectives of this generation fail or wait forever.
      changing: The generation ends at the next step boundary: a worker joins or leaves.
      paused: There are fewer members than the minimum.
      finished: A worker has completed the run. There will be no other generation.
      stop: Why the workers must save and stop, or None.
      give_up: Why the job cannot continue, or None.
      code: Exit code of the job, if it cannot continue or a worker has completed the run.
      excluded: Workers that are alive but no longer part of the job.
      changes: Who joined or left with this generation, and why.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    version: int = 0
    generation: _Number = 0
    members: tuple[Member, ...] = ()
    broken: bool = False
    changing: bool = False
    paused: bool = False
    finished: bool = False
    stop: _Text | None = None
    give_up: _Text | None = None
    code: Annotated[int, Field(ge=0, le=255)] = 0
    excluded: tuple[_Worker, ...] = ()
    changes: tuple[_Text, ...] = ()
