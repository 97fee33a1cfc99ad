"""The plot of all benchmarks: one panel with bars for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.storage.write import replace_file

_BAR_INCHES, _AROUND_INCHES = 0.24, 0.9


def draw(panels: list[tuple[str, str, list[dict[str, Any]]]], path: Path) -> None:
    """Plots one column of each benchmark.

    Args:
      panels: Title, name of the column, and rows, whose texts label the bars.
      path: The file to write.
    """
    shown = [
        (title, name, [row for row in rows if row.get(name) is not None])
        for title, name, rows in panels
    ]
    heights = [_AROUND_INCHES + _BAR_INCHES * len(rows) for _, _, rows in shown]
    figure = Figure(figsize=(9, max(1.0, sum(heights))), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(max(1, len(shown)), 1, height_ratios=heights or None)
    for place, (title, name, rows) in enumerate(shown):
        axes = figure.add_subplot(grid[place])
        labels = [_label(row) for row in rows]
        values = [row[name] for row in rows]
        bars = axes.barh(range(len(rows)), values, color="#1f5fb4", height=0.7)
        axes.bar_label(bars, fmt="%.4g", padding=3, fontsize=8)
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel(name.replace("_per_second", "/s").replace("_", " "), fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
    kind = path.suffix.removeprefix(".") or "png"
    replace_file(path, lambda stream: figure.savefig(stream, format=kind))


def _label(row: dict[str, Any]) -> str:
    """Returns the texts of a row, except the name of the row that it is compared with."""
    return ", ".join(v for k, v in row.items() if isinstance(v, str) and k != "ours")
