"""metrics.jsonl: one JSON object a line, each step and split once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.storage.appended_file import AppendedFile
from pipeline.storage.json_lines import read_json_lines, set_aside
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

_MOST = 1 << 53  # steps
_LARGEST = 1e300  # of the numbers in a row


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
        self._report = report
        self._file = AppendedFile(path, report)

    def rows(self) -> list[dict[str, Any]]:
        """All valid rows in the order of the file, of each step and split the last one."""
        return self._read()[0]

    def num_damaged(self) -> int:
        """How many lines `rows` leaves out; a truncated last line does not count."""
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
        set_aside(self._path, damaged, self._report)
        replace_file(self._path, "".join(to_json(row) + "\n" for row in kept))
        return kept

    def _read(self) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Valid rows, and the lines that are not or have a later row in their place."""
        found, damaged = read_json_lines(self._path, _is_row)
        rows: dict[tuple[int, str], dict[str, Any]] = {}
        for row in found:
            # The later one was written by a process that knew of the earlier one, if at all.
            earlier = rows.pop((row["step"], row["split"]), row)
            if earlier != row:
                damaged.append(to_json(earlier).encode())
            rows[row["step"], row["split"]] = row
        return list(rows.values()), damaged


def _is_row(found: dict[str, Any]) -> bool:
    step = found.get("step")
    if type(step) is not int or not 0 <= step < _MOST or not isinstance(found.get("split"), str):
        return False
    # Others may have written the file: no text where curves need numbers, and none of 400 digits.
    return all(
        value is None or (isinstance(value, (int, float)) and abs(value) < _LARGEST)
        for key, value in found.items()
        if key != "split"
    )
