"""What all processes must agree on: settings, code, and what the chief found."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import Config, all_settings, parse_config, value_of
from pipeline.distribute.runtime import Runtime
from pipeline.errors import PipelineError, SettingsError


def on_chief(runtime: Runtime, function: Callable[[], Any]) -> Any:
    """Calls `function` on the chief alone and gives its value (anything JSON can hold) to all.

    All processes must call it. Where the chief raises a PipelineError or an OSError, all raise it:
    none is left waiting for a chief that has gone.
    """
    answer: dict[str, Any] = {}
    if runtime.is_chief:
        try:
            answer = {"value": function()}
        except (PipelineError, OSError) as error:
            if runtime.world_size == 1:
                raise
            code = error.exit_code if isinstance(error, PipelineError) else PipelineError.exit_code
            answer = {"error": str(error), "exit_code": code}
    answer = runtime.broadcast_value(answer)
    if "error" in answer:
        agreed = PipelineError(answer["error"])
        agreed.exit_code = answer["exit_code"]
        agreed.said_by_chief = True
        raise agreed
    return answer["value"]


def check_agreement(runtime: Runtime, config: Config) -> None:
    """Refuses to train where processes were started with other settings or other code.

    Raises:
      SettingsError: On every process; names the rank that deviates from rank 0, its host, and how.
    """
    own = {"host": socket.gethostname(), "config": config.model_dump(mode="json"), "code": _code()}
    first, *others = runtime.all_gather(own)
    for rank, facts in enumerate(others, start=1):
        where = f"rank {rank} on {facts['host']}"
        if facts["code"] != first["code"]:
            raise _agreed(
                f"{where} runs another version of the code than rank 0 on {first['host']}. "
                "Install the same one on all hosts"
            )
        if facts["config"] != first["config"]:
            lines = _differences(first["config"], facts["config"])
            raise _agreed(
                f"{where} has other settings than rank 0 on {first['host']}:\n  "
                + "\n  ".join(lines)
                + "\nGive all of them the same recipe and settings"
            )


def _agreed(message: str) -> SettingsError:
    error = SettingsError(message)
    error.said_by_chief = True
    return error


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
