"""metrics.jsonl: one JSON object per line, with one row for each step and split."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from pipeline.storage.appended_file import AppendedFile
from pipeline.storage.json_lines import read_json_lines, set_aside
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

_MOST = 1 << 53  # steps
_LARGEST = 1e300  # of the numbers in a row


def shows_top_5(num_classes: int) -> bool:
    """Whether to display top-5 accuracy, which is always 100 % for five classes or fewer.

    Rows of metrics.jsonl always contain it, so that scripts need no special case.
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
        """All valid rows in file order; only the last row of each step and split."""
        return self._read()[0]

    def num_damaged(self) -> int:
        """Number of lines that `rows` leaves out; a truncated last line does not count."""
        return len(self._read()[1])

    def append(self, row: Mapping[str, Any]) -> None:
        """Appends one row."""
        self._file.append((to_json(row) + "\n").encode())

    def flush(self) -> None:
        """Writes all rows and syncs the file to disk.

        Raises:
          OSError: The rows cannot be written; they stay in memory.
        """
        self._file.flush(sync=True)

    def rewind(self, step: int, again: Container[str] = ()) -> list[dict[str, Any]]:
        """Removes the rows that the run writes again when it resumes at `step`.

        Rows of `step` itself are kept, except for the test row, which is written after the last
        checkpoint. Damaged lines are moved to a file with the suffix `.damaged`. The file is
        replaced: what another process still writes into the old one is lost.

        Args:
          step: The step from which the run continues.
          again: Splits whose rows of that step the run writes again, too.

        Returns:
          The rows that are kept.

        Raises:
          OSError: The file cannot be written.
        """
        self._file.flush()
        rows, damaged = self._read()
        kept = [
            row
            for row in rows
            if row["step"] < step
            or (row["step"] == step and row["split"] != "test" and row["split"] not in again)
        ]
        set_aside(self._path, damaged, self._report)
        replace_file(self._path, "".join(to_json(row) + "\n" for row in kept))
        return kept

    def _read(self) -> tuple[list[dict[str, Any]], list[bytes]]:
        """Valid rows, and the lines that are damaged or superseded by a later row."""
        found, damaged = read_json_lines(self._path, _is_row)
        rows: dict[tuple[int, str], dict[str, Any]] = {}
        for row in found:
            # Keep the later row: its writer may have known the earlier one, but not vice versa.
            earlier = rows.pop((row["step"], row["split"]), row)
            if earlier != row:
                damaged.append(to_json(earlier).encode())
            rows[row["step"], row["split"]] = row
        return list(rows.values()), damaged


def _is_row(found: dict[str, Any]) -> bool:
    step = found.get("step")
    if type(step) is not int or not 0 <= step < _MOST or not isinstance(found.get("split"), str):
        return False
    # The file may come from another user: plots need numbers, and of limited size.
    return all(
        value is None or (isinstance(value, (int, float)) and abs(value) < _LARGEST)
        for key, value in found.items()
        if key != "split"
    )
