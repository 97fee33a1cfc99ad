"""metrics.jsonl: one JSON object a line, each step and split once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.monitor.appended_file import AppendedFile
from pipeline.monitor.whole_file import replace_file
from pipeline.strict_json import from_json, to_json


def shows_top_5(num_classes: int) -> bool:
    """Whether to show top-5 accuracy, which is 100 % among five classes or fewer.

    Rows of metrics.jsonl always have it, so that scripts need not ask.
    """
    return num_classes > 5


class MetricsFile:
    """Appends rows for the chief.

    Args:
      path: Path of the file.
      report: Called with a message when rows cannot be written (they wait in memory), and when
        damaged lines are moved out of the file.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path = path
        self._damaged_path = path.with_name(f"{path.name}.damaged")
        self._report = report
        self._file = AppendedFile(path, report)

    def rows(self) -> list[dict[str, Any]]:
        """All valid rows, in the order of the file."""
        return self._read()[0]

    def num_damaged(self) -> int:
        """Number of lines that are not valid rows; a truncated last line does not count."""
        return len(self._read()[1])

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one row."""
        self._file.append((to_json(row) + "\n").encode())

    def flush(self) -> None:
        """Puts all rows on the disk.

        Raises:
          OSError: They cannot be written; they go on waiting.
        """
        self._file.flush(sync=True)

    def rewind(self, step: int, evaluates_again: bool) -> list[dict[str, Any]]:
        """Drops the rows that the run writes again when it resumes at `step`; returns the others.

        Rows of `step` itself stay, because they were written before its checkpoint. Its validation
        row is dropped if the run `evaluates_again`. The test row comes after the last checkpoint.
        Damaged lines are moved to a file with the suffix `.damaged`.

        Raises:
          OSError: The file cannot be written.
        """
        self._file.flush()
        again = {"test"} | ({"validation"} if evaluates_again else set())
        rows, damaged = self._read()
        kept = [
            row
            for row in rows
            if row["step"] < step or (row["step"] == step and row["split"] not in again)
        ]
        if damaged:
            self._set_aside(damaged)
        replace_file(self._path, "".join(to_json(row) + "\n" for row in kept))
        return kept

    def _set_aside(self, damaged: list[bytes]) -> None:
        with self._damaged_path.open("ab") as stream:
            stream.writelines(line + b"\n" for line in damaged)
            stream.flush()
            os.fsync(stream.fileno())  # before they leave the original file
        self._report(
            f"{self._path}: {len(damaged)} line(s) are not valid rows of metrics and were moved to "
            f"{self._damaged_path}. All other rows are kept"
        )

    def _read(self) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Valid rows and damaged lines. A last line that a crash truncated is neither."""
        if not self._path.exists():
            return [], []
        *lines, last = self._path.read_bytes().split(b"\n")
        rows, damaged = [], []
        for line in lines:
            row = _parse(line)
            if row is not None:
                rows.append(row)
            elif line.strip():
                damaged.append(line)
        if (row := _parse(last)) is not None:
            rows.append(row)
        return rows, damaged


def _parse(line: bytes) -> dict[str, Any] | None:
    """The row that a line holds; None if it holds none."""
    try:
        row = from_json(line.decode())
    except ValueError:
        return None
    valid = isinstance(row, dict) and type(row.get("step")) is int and "split" in row
    return row if valid else None
