"""metrics.jsonl: one JSON object a line, each step and split once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.monitor.appended_file import AppendedFile
from pipeline.monitor.whole_file import replace_file


class MetricsFile:
    """Appends rows for the chief.

    Args:
      path: Of the file.
      report: Is told when rows cannot be written; they wait in memory.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path = path
        self._file = AppendedFile(path, report)

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows; a last line cut short by a crash is left out."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one row."""
        self._file.append((json.dumps(row) + "\n").encode())

    def flush(self) -> None:
        """Puts all rows on the disk.

        Raises:
          OSError: They cannot be written; they go on waiting.
        """
        self._file.flush(sync=True)

    def rewind(self, step: int, evaluates_again: bool) -> list[dict[str, Any]]:
        """Drops what the run will write again when it goes on from `step`; returns what stays.

        Rows of `step` itself stay: they came before its checkpoint. Its validation row goes where
        the run `evaluates_again`, and the test row comes after the last checkpoint.

        Raises:
          OSError: The file cannot be written.
        """
        self._file.flush()
        again = {"test"} | ({"validation"} if evaluates_again else set())
        kept = [
            row
            for row in self.rows()
            if row["step"] < step or (row["step"] == step and row["split"] not in again)
        ]
        replace_file(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        return kept
