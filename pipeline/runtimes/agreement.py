"""Checks that all processes agree on settings and code, and shares results of the chief."""

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
    """Calls `function` on the chief only and returns its value on every process.

    All processes must call it. The value must be JSON-serializable. If the chief raises an error,
    every process raises it, so no process waits for a chief that has exited.
    """
    if runtime.world_size == 1:
        return function()
    answer: dict[str, Any] = {}
    problem = None
    if runtime.is_chief:
        try:
            answer = {"value": function()}
        except Exception as error:  # the other processes wait for an answer in any case
            problem, answer = error, _serialized(error)
    answer = runtime.broadcast_value(answer)
    if problem is not None and not isinstance(problem, (PipelineError, OSError)):
        raise problem  # a bug: show its traceback
    if "error" in answer:
        raise _common_error(answer["error"], answer["exit_code"])
    return answer["value"]


def on_all(runtime: Runtime, function: Callable[[], T]) -> T:
    """Calls `function` on every process and returns its local value.

    All processes must call it, and `function` must not communicate with other processes. If it
    raises an error on some processes, every process raises it, so none waits for one that has
    exited.
    """
    if runtime.world_size == 1:
        return function()
    problem = None
    try:
        value = function()
    except Exception as error:  # the other processes wait for this one in any case
        problem = error
    own = {"host": socket.gethostname()} | ({} if problem is None else _serialized(problem))
    gathered = runtime.all_gather(own)
    failed = [rank for rank, answer in enumerate(gathered) if "error" in answer]
    if problem is not None and not isinstance(problem, (PipelineError, OSError)):
        raise problem
    if not failed:
        return value
    first = gathered[failed[0]]
    if len({answer.get("error") for answer in gathered}) == 1:
        raise _common_error(first["error"], first["exit_code"])
    ranks = ", ".join(f"{rank} on {gathered[rank]['host']}" for rank in failed[:_SHOWN])
    more = f" and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    raise _common_error(f"rank {ranks}{more}: {first['error']}", first["exit_code"])


def check_same(
    runtime: Runtime,
    facts: dict[str, Any],
    differences: Callable[[dict[str, Any], dict[str, Any]], list[str]],
    what: str,
    remedy: str,
) -> None:
    """Raises an error unless `facts` are the same on all processes.

    All processes must call it. They exchange only digests while the facts agree.

    Args:
      runtime: Connects the processes.
      facts: JSON-serializable facts about this process.
      differences: Takes the facts of rank 0 and of this process and returns one line for each
        difference.
      what: The subject of the facts, for the message.
      remedy: What the user can do, for the message.

    Raises:
      PipelineError: On every process, with DataError's exit code. The message names the ranks that
        differ from rank 0 and lists the differences.
    """
    text = json.dumps(facts, sort_keys=True)
    own = [socket.gethostname(), hashlib.blake2b(text.encode(), digest_size=16).hexdigest()]
    hosts, digests = zip(*runtime.all_gather(own), strict=True)
    if len(set(digests)) == 1:
        return
    # All processes gathered the same digests, so all of them take this branch.
    lines = runtime.all_gather(differences(runtime.broadcast_value(facts), facts))
    found = [
        f"rank {rank} on {hosts[rank]} has different {what} from rank 0 on {hosts[0]}:\n  "
        + "\n  ".join(lines[rank])
        for rank in range(runtime.world_size)
        if digests[rank] != digests[0]
    ]
    more = [f"{len(found) - _SHOWN} more ranks differ"] if len(found) > _SHOWN else []
    raise _common_error("\n".join([*found[:_SHOWN], *more, remedy]), DataError.exit_code)


def _serialized(error: Exception) -> dict[str, Any]:
    """An error in the form that is sent to other processes."""
    if isinstance(error, PipelineError):
        return {"error": str(error), "exit_code": error.exit_code}
    text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return {"error": text, "exit_code": PipelineError.exit_code}


def _common_error(message: str, exit_code: int) -> PipelineError:
    """An error that all processes raise together and only the chief reports."""
    error = PipelineError(message)
    error.exit_code, error.said_by_chief = exit_code, True
    return error


def check_agreement(runtime: Runtime, config: Config) -> None:
    """Raises an error if processes were started with different settings or code.

    Raises:
      PipelineError: On every process, with SettingsError's exit code. The message names the rank
        that differs from rank 0, its host, and the differences.
    """
    own = {"host": socket.gethostname(), **settings_and_code(config)}
    first, *others = runtime.all_gather(own)
    for rank, facts in enumerate(others, start=1):
        where = f"rank {rank} on {facts['host']}"
        if facts["code"] != first["code"]:
            raise _common_error(
                f"{where} runs a different version of the code from rank 0 on {first['host']}. "
                "Install the same version on all hosts",
                SettingsError.exit_code,
            )
        if facts["config"] != first["config"]:
            lines = _differences(first["config"], facts["config"], rank)
            raise _common_error(
                f"{where} has different settings from rank 0 on {first['host']}:\n  "
                + "\n  ".join(lines)
                + "\nStart all of them with the same recipe and settings",
                SettingsError.exit_code,
            )


def settings_and_code(config: Config) -> dict[str, Any]:
    """The settings and a digest of the code of this process; JSON-serializable."""
    return {"config": config.model_dump(mode="json"), "code": _code()}


def _differences(first: dict[str, Any], other: dict[str, Any], rank: int) -> list[str]:
    a, b = parse_config(first, "rank 0"), parse_config(other, "another rank")
    keys = [setting.key for setting in all_settings()]
    return [
        f"{key}: {value_of(a, key)!r} on rank 0, {value_of(b, key)!r} on rank {rank}"
        for key in keys
        if value_of(a, key) != value_of(b, key)
    ]


def _code() -> str:
    """SHA-256 of the source of the package `pipeline`, in hexadecimal."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()
