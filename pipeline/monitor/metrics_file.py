"""metrics.jsonl: one JSON object a line, each step and split once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends rows for the chief; a row is on its way to the disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

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
        with self._path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def rewind(self, step: int) -> None:
        """Drops what the run will write again when it goes on from `step`.

        Rows of `step` itself stay: they came before its checkpoint. The test row comes after.
        """
        kept = [r for r in self.rows() if r["step"] <= step and r["split"] != "test"]
        replacement = self._path.with_name(self._path.name + ".new")
        replacement.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(replacement, self._path)
