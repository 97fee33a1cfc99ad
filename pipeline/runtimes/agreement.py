"""What all processes must agree on: settings, code, and what the chief found."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config import Config, all_settings, parse_config, value_of
from pipeline.errors import DataError, PipelineError, SettingsError
from pipeline.runtimes.runtime import Runtime

T = TypeVar("T")

_SHOWN = 3


def on_chief(runtime: Runtime, function: Callable[[], Any]) -> Any:
    """Calls `function` on the chief alone and gives its value (anything JSON can hold) to all.

    All processes must call it. Where the chief raises an error, all raise it: none is left waiting
    for a chief that has gone.
    """
    if runtime.world_size == 1:
        return function()
    answer: dict[str, Any] = {}
    problem = None
    if runtime.is_chief:
        try:
            answer = {"value": function()}
        except Exception as error:  # the others wait for an answer, whatever went wrong
            problem, answer = error, _told(error)
    answer = runtime.broadcast_value(answer)
    if problem is not None and not isinstance(problem, (PipelineError, OSError)):
        raise problem  # a fault of the program, shown with its traceback
    if "error" in answer:
        raise _agreed(answer["error"], answer["exit_code"])
    return answer["value"]


def on_all(runtime: Runtime, function: Callable[[], T]) -> T:
    """Calls `function` on every process and returns its value there.

    All processes must call it, and `function` must not call the others. Where it raises an error
    on some processes, all raise it: none is left waiting for one that has gone.
    """
    if runtime.world_size == 1:
        return function()
    problem = None
    try:
        value = function()
    except Exception as error:  # the others wait for this process, whatever went wrong
        problem = error
    own = {"host": socket.gethostname()} | ({} if problem is None else _told(problem))
    gathered = runtime.all_gather(own)
    failed = [rank for rank, answer in enumerate(gathered) if "error" in answer]
    if problem is not None and not isinstance(problem, (PipelineError, OSError)):
        raise problem
    if not failed:
        return value
    first = gathered[failed[0]]
    if len({answer.get("error") for answer in gathered}) == 1:
        raise _agreed(first["error"], first["exit_code"])
    ranks = ", ".join(f"{rank} on {gathered[rank]['host']}" for rank in failed[:_SHOWN])
    more = f" and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    raise _agreed(f"rank {ranks}{more}: {first['error']}", first["exit_code"])


def check_same(
    runtime: Runtime,
    facts: dict[str, Any],
    differences: Callable[[dict[str, Any], dict[str, Any]], list[str]],
    what: str,
    remedy: str,
) -> None:
    """Refuses facts (anything JSON can hold) that are not the same on all processes.

    All processes must call it. Only digests are exchanged as long as they agree.

    Args:
      runtime: Joins the processes.
      facts: Of this process.
      differences: Says in lines how the facts of rank 0 and those of this process differ.
      what: What the facts are about, for the message.
      remedy: What to do, for the message.

    Raises:
      PipelineError: On every process, with DataError's exit code; names the ranks that deviate
        from rank 0, and how.
    """
    text = json.dumps(facts, sort_keys=True)
    own = [socket.gethostname(), hashlib.blake2b(text.encode(), digest_size=16).hexdigest()]
    hosts, digests = zip(*runtime.all_gather(own), strict=True)
    if len(set(digests)) == 1:
        return
    # All have gathered the same digests, and so all come here.
    lines = runtime.all_gather(differences(runtime.broadcast_value(facts), facts))
    found = [
        f"rank {rank} on {hosts[rank]} has other {what} than rank 0 on {hosts[0]}:\n  "
        + "\n  ".join(lines[rank])
        for rank in range(runtime.world_size)
        if digests[rank] != digests[0]
    ]
    more = [f"{len(found) - _SHOWN} more ranks differ"] if len(found) > _SHOWN else []
    raise _agreed("\n".join([*found[:_SHOWN], *more, remedy]), DataError.exit_code)


def _told(error: Exception) -> dict[str, Any]:
    """An error as other processes are told of it."""
    if isinstance(error, PipelineError):
        return {"error": str(error), "exit_code": error.exit_code}
    text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return {"error": text, "exit_code": PipelineError.exit_code}


def _agreed(message: str, exit_code: int) -> PipelineError:
    """An error that all processes raise together, and the chief alone shows."""
    error = PipelineError(message)
    error.exit_code, error.said_by_chief = exit_code, True
    return error


def check_agreement(runtime: Runtime, config: Config) -> None:
    """Refuses to train where processes were started with other settings or other code.

    Raises:
      PipelineError: On every process, with SettingsError's exit code; names the rank that deviates
        from rank 0, its host, and how.
    """
    own = {"host": socket.gethostname(), "config": config.model_dump(mode="json"), "code": _code()}
    first, *others = runtime.all_gather(own)
    for rank, facts in enumerate(others, start=1):
        where = f"rank {rank} on {facts['host']}"
        if facts["code"] != first["code"]:
            raise _agreed(
                f"{where} runs another version of the code than rank 0 on {first['host']}. "
                "Install the same one on all hosts",
                SettingsError.exit_code,
            )
        if facts["config"] != first["config"]:
            lines = _differences(first["config"], facts["config"])
            raise _agreed(
                f"{where} has other settings than rank 0 on {first['host']}:\n  "
                + "\n  ".join(lines)
                + "\nGive all of them the same recipe and settings",
                SettingsError.exit_code,
            )


def _differences(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    a, b = parse_config(first, "rank 0"), parse_config(other, "another rank")
    keys = [setting.key for setting in all_settings()]
    return [
        f"{key}: {value_of(a, key)!r} on rank 0, {value_of(b, key)!r} there"
        for key in keys
        if value_of(a, key) != value_of(b, key)
    ]


def _code() -> str:
    """A hash of this package's source."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()
