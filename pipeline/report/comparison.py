"""Writes the page that compares several runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.report.comparison_page import comparison_page
from pipeline.report.write import gather, write_page
from pipeline.runs.folder import RunFolder


def write_comparison(folders: Sequence[RunFolder], out: Path | None) -> Path:
    """Writes one page that compares several runs, and returns its path.

    Args:
      out: The file; by default comparison.html beside the first run.

    Raises:
      SettingsError: A run is given twice.
    """
    runs = [gather(folder) for folder in folders]
    counts = Counter(run.name for run in runs)
    named = [replace(run, name=run.folder) if counts[run.name] > 1 else run for run in runs]
    if len({run.name for run in named}) < len(named):
        raise SettingsError("each run can be given once only")
    return write_page(comparison_page(named), out or folders[0].path.parent / "comparison.html")
