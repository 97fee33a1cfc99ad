"""Files with one JSON object per line. Damaged lines move to a separate file; others are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.storage.read import read_file
from pipeline.storage.write import append_to_file
from pipeline.strict_json import from_json


def read_json_lines(
    path: Path, is_valid: Callable[[dict[str, Any]], bool]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Valid objects and damaged lines, both in the order of the file.

    A last line that a crash truncated is neither. NUL bytes around an object are ignored: a loss of
    power leaves them where the size of a file was on the disk and its content was not.

    Args:
      path: Of the file; one that does not exist has no lines.
      is_valid: Whether an object has what its readers need.
    """
    if not path.exists():
        return [], []
    *lines, last = read_file(path).split(b"\n")
    objects, damaged = [], []
    for line in lines:
        found = _parse(line, is_valid)
        if found is not None:
            objects.append(found)
        elif line.strip():
            damaged.append(line)
    if (found := _parse(last, is_valid)) is not None:
        objects.append(found)
    elif last.strip(b"\0 ") and not last.lstrip(b"\0").startswith(b"{"):
        damaged.append(last)  # it is not the beginning of an object
    return objects, damaged


def set_aside(path: Path, damaged: list[bytes], report: Callable[[str], None]) -> None:
    """Appends lines that are about to leave a file to one with the suffix `.damaged`, and says so.

    Raises:
      OSError: They cannot be written.
    """
    if not damaged:
        return
    kept = path.with_name(f"{path.name}.damaged")
    # On the disk before they leave the original file.
    append_to_file(kept, b"".join(line + b"\n" for line in damaged), durable=True)
    report(
        f"{path}: {len(damaged)} line(s) are damaged and were moved to {kept}. All others are kept"
    )


def _parse(line: bytes, is_valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The object that a line holds; None if it holds none."""
    try:
        found = from_json(line.strip(b"\0").decode())
    except ValueError:
        return None
    return found if isinstance(found, dict) and is_valid(found) else None
