"""`python -m benchmarks reduction --workers 2,4,8`"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.command import check_counts
from pipeline.errors import PipelineError, SettingsError
from pipeline.launch.job import local_launch_command
from pipeline.plan.reduction import ring_s
from pipeline.runtimes.interpreter import python_command
from pipeline.runtimes.nvidia import find_gpus
from pipeline.strict_json import to_json

_EPILOG = """\
Measures the time that Horovod takes to sum a tensor over N workers on this machine, for several
sizes. The ring model of `vit plan` is fitted to all rows together, with least squares of the
relative errors:

  wake + 2 (N - 1) (latency + bytes / N / bandwidth)

"wake" is the time until Horovod's thread looks for tensors (HOROVOD_CYCLE_TIME). Workers with less
than one core each also wait for a core, so the numbers are those of an overloaded machine.
"""


class Model(NamedTuple):
    """The fitted parameters. `bytes_per_s` is None if the size made no difference."""

    wake_s: float
    latency_s: float
    bytes_per_s: float | None

    def seconds(self, workers: int, size: float) -> float:
        """Returns the predicted time of one sum of `size` bytes."""
        rate = math.inf if self.bytes_per_s is None else self.bytes_per_s
        return self.wake_s + ring_s(workers, size, rate, self.latency_s)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument(
        "--workers", help="numbers of workers (default: 2,4,8; with GPUs, up to their number)"
    )
    parser.add_argument(
        "--kib", default="1,64,1024,4096,16384,65536", help="sizes of the tensor in KiB"
    )
    parser.add_argument("--times", type=int, default=10, help="sums per timing (default: 10)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="number of starts for each (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures all sizes with each number of workers and prints a table."""
    check_counts(arguments, times=1, repeats=1)
    gpus = len(find_gpus(os.environ))
    usual = ",".join(str(n) for n in (2, 4, 8) if not gpus or n <= gpus)
    counts = _numbers(arguments.workers or usual, "workers", 2)
    sizes = _numbers(arguments.kib, "kib", 1)
    found: dict[int, list[list[float]]] = {workers: [] for workers in counts}
    for _ in range(arguments.repeats):
        for workers, repeats in found.items():
            repeats.append(_measure(workers, sizes, arguments.times))
    rows = [
        {
            "what": f"{workers} workers, {size:,} KiB",
            "workers": workers,
            "kib": size,
            "seconds": median(seconds),
            "least": min(seconds),
            "most": max(seconds),
        }
        for workers, repeats in found.items()
        for size, seconds in zip(sizes, zip(*repeats, strict=True), strict=True)
    ]
    model = fit([(int(r["workers"]), 1024 * r["kib"], r["seconds"]) for r in rows])
    for row in rows:
        row["fitted_s"] = model.seconds(int(row["workers"]), 1024 * row["kib"])
        row["off_by"] = row["fitted_s"] / row["seconds"] - 1
    objects: list[dict[str, Any]] = [*rows, model._asdict()]
    print("\n".join(map(to_json, objects) if arguments.json else _table(rows, model)))
    return 0


def fit(rows: Sequence[tuple[int, float, float]]) -> Model:
    """Fits a model with non-negative parameters by least squares of the relative errors.

    Args:
      rows: Tuples of workers, bytes and seconds.
    """
    from scipy.optimize import nnls

    # The time is linear in the three parameters. Each row is divided by its measured time.
    known = [
        [1 / seconds, 2 * (n - 1) / seconds, 2 * (n - 1) / n * size / seconds]
        for n, size, seconds in rows
    ]
    (wake_s, latency_s, s_per_byte), _ = nnls(np.array(known), np.ones(len(rows)))
    return Model(float(wake_s), float(latency_s), float(1 / s_per_byte) if s_per_byte else None)


def _numbers(text: str, name: str, least: int) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        raise SettingsError(f"--{name} must be numbers of {least} or more. Received: {text!r}")
    return [int(part) for part in parts]


def _measure(workers: int, sizes: Sequence[int], times: int) -> list[float]:
    """Returns the time of one sum for each size."""
    with tempfile.TemporaryDirectory(prefix="vit-reduction-") as folder:
        result = Path(folder) / "result.json"
        rank = python_command("-m", "benchmarks.reduction_rank", str(result), str(times))
        done = subprocess.run(
            [*local_launch_command(workers, "horovod"), *rank, ",".join(map(str, sizes))],
            env=os.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise PipelineError(f"with {workers} workers:\n{(done.stdout + done.stderr)[-6000:]}")
        seconds: list[float] = json.loads(result.read_text())
        return seconds


def _table(rows: Sequence[dict[str, Any]], model: Model) -> Iterator[str]:
    yield f"{'workers':>7}{'KiB':>8}{'ms':>10}{'least':>10}{'most':>10}{'fitted':>10}{'error':>9}"
    for row in rows:
        times = "".join(f"{1e3 * row[n]:>10.2f}" for n in ("seconds", "least", "most", "fitted_s"))
        yield f"{row['workers']:>7.0f}{row['kib']:>8.0f}{times}{row['off_by']:>9.1%}"
    rate = "no limit" if model.bytes_per_s is None else f"{model.bytes_per_s / 1e9:.2f} GB/s"
    yield (
        f"fitted: wake {1e3 * model.wake_s:.2f} ms, latency {1e6 * model.latency_s:.0f} us, "
        f"{rate}; mean error {_mean_error(rows):.0%}"
    )


def _mean_error(rows: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([abs(row["off_by"]) for row in rows]))
