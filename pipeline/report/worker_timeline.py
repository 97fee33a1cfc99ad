"""The workers of an elastic job over time: who joined and left, and the speed for each number."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipeline.report.axis import number
from pipeline.report.curves import STEP
from pipeline.report.line_chart import Chart, Drawing, Line, lay_out_all
from pipeline.report.run_facts import RunFacts

_MAX_ROWS = 200


@dataclass(frozen=True)
class WorkerTimeline:
    """What a report shows of the workers of an elastic job.

    Attributes:
      charts: The number of workers over the steps.
      changes: Time, step, workers, pause and reasons of each change; the newest if there are many.
      num_changes: Number of all changes.
      speeds: Number of workers, number of rows of metrics with as many, and their median images/s.
    """

    charts: list[Drawing]
    changes: Sequence[tuple[str, str, str, str, str]]
    num_changes: int
    speeds: Sequence[tuple[str, str, str]]


def worker_timeline(run: RunFacts) -> WorkerTimeline | None:
    """The workers over time; None if the job was not elastic."""
    if not run.workers:
        return None
    rows = [_change_row(change) for change in run.workers[-_MAX_ROWS:]]
    line = Line("workers", _steps_of(run), dots=True)
    chart = Chart("Workers", STEP, "workers", [line], from_zero=True, format_y=number)
    return WorkerTimeline(lay_out_all([chart]), rows, len(run.workers), _speeds(run))


def _steps_of(run: RunFacts) -> list[tuple[float, float]]:
    """(step, workers) with two points for each change, so that the line has steps."""
    points: list[tuple[float, float]] = []
    for change in run.workers:
        if points:
            points.append((change["step"], points[-1][1]))
        points.append((change["step"], change["workers"]))
    if points and run.rows:
        points.append((max(points[-1][0], run.rows[-1]["step"]), points[-1][1]))
    return points


def _change_row(change: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(change["time"]))
    pause, why = f"{change['pause_s']:.1f} s", "; ".join(change["changes"])
    return when, f"{change['step']:,}", str(change["workers"]), pause, why


def _speeds(run: RunFacts) -> list[tuple[str, str, str]]:
    """Images/s of the rows of metrics during which the number of workers did not change."""
    rates: dict[int, list[float]] = {}
    before = 0.0
    for step, rate in run.curve("train", "examples_per_second"):
        earlier = [change for change in run.workers if change["step"] <= before]
        unchanged = not any(before < change["step"] < step for change in run.workers)
        if earlier and unchanged and math.isfinite(rate) and rate > 0:
            rates.setdefault(earlier[-1]["workers"], []).append(rate)
        before = step
    return [
        (str(workers), f"{len(found):,}", f"{median(found):,.0f}")
        for workers, found in sorted(rates.items())
    ]
