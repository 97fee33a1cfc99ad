"""Plots a plan: throughput against the number of GPUs, and the breakdown of a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.errors import SettingsError
from pipeline.plan.scenario import Row
from pipeline.storage.write import replace_file

_PARTS = {
    "arithmetic": ("arithmetic_s", "#1f5fb4"),
    "host": ("host_s", "#7aa6d8"),
    "waiting for the slowest": ("straggler_s", "#d9a441"),
    "reduction, not hidden": ("reduction_s", "#c4551d"),
}


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Writes an image file.

    Args:
      rows: Results of `make_plan`, at least one.
      title: Title of the figure.
      path: Output file.

    Raises:
      SettingsError: The file cannot be written.
    """
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    rates, times = figure.subplots(1, 2)
    gpus = np.array([row.gpus for row in rows])
    reached = [row.images_per_second for row in rows]
    ideal = [row.images_per_second / row.efficiency for row in rows]
    rates.loglog(gpus, ideal, "--", color="#888888", label="linear scaling")
    rates.loglog(gpus, reached, "o-", color="#1f5fb4", label="predicted")
    for row in rows:
        rates.annotate(
            f"{row.efficiency:.0%}",
            (row.gpus, row.images_per_second),
            textcoords="offset points",
            xytext=(6, -12),
            fontsize=8,
        )
    rates.set(xlabel="GPUs", ylabel="images per second")
    rates.set_xticks(gpus, [str(n) for n in gpus], minor=False)
    rates.minorticks_off()
    rates.grid(alpha=0.3)
    rates.legend()
    places, bottom = np.arange(len(rows)), np.zeros(len(rows))
    for name, (attribute, color) in _PARTS.items():
        height = np.array([100 * getattr(row.step, attribute) / row.step.total_s for row in rows])
        times.bar(places, height, 0.6, bottom, color=color, label=name)
        bottom += height
    labels = [f"{row.gpus}\n{1e3 * row.step.total_s:,.0f} ms" for row in rows]
    times.set_xticks(places, labels)
    times.set(xlabel="GPUs and step time", ylabel="% of a step")
    times.legend(fontsize=8, loc="lower left")
    try:
        kind = path.suffix.removeprefix(".") or "png"
        replace_file(path, lambda stream: figure.savefig(stream, format=kind))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot write {path}: {error}") from None
