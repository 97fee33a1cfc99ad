"""The plot of the accuracy benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.storage.write import replace_file

_LINES = {"ours": ("this pipeline", "#1f5fb4"), "example": ("the Keras example", "#c4551d")}


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Plots test accuracy over minutes, with a line for each training.

    Args:
      runs: Runs with `who` and `curve`, a list of points [minutes, accuracy in 0..1].
      path: The file to write.
    """
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    named = set()
    for run in runs:
        name, color = _LINES[run["who"]]
        minutes, accuracy = zip(*run["curve"], strict=True)
        label = None if run["who"] in named else name
        axes.plot(minutes, [100 * a for a in accuracy], ".-", color=color, ms=4, lw=1, label=label)
        named.add(run["who"])
    axes.set_xlim(0)
    axes.set_ylim(0)
    axes.set_xlabel("minutes, from the start of the process")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    kind = path.suffix.removeprefix(".") or "png"
    replace_file(path, lambda stream: figure.savefig(stream, format=kind))
