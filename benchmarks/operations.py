"""`python -m benchmarks operations`"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.command import check_counts
from pipeline.config import load_config
from pipeline.recipes import find_recipe
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

_EPILOG = """\
Shows the time of each operation in a training step, from a TensorFlow trace of --steps steps on
random images in memory. The time of an operation does not include operations inside it. "of all"
is its share of the time of all cores. In the rest of the time, the cores waited, helped an
operation on another core, or did work that the trace does not name. "XLA's loops" are compiled
chains of operations.

This benchmark is for CPUs. For GPUs, use the trace of `monitor.profile_steps` in TensorBoard.
"""

# The name of a kernel in a trace is NODE:OPERATION; code compiled by XLA has a name of its own.
_OPERATION = re.compile(r"[^:\s]+:(?P<kind>[A-Za-z_]\w*)$")
_COMPILED = "CpuExecutable::ExecuteAsyncOnStream"
_PRODUCTS = re.compile(r"_?(Fused|Mkl|Batch|Native)*_?(MatMul|Conv2D)")


class Event(NamedTuple):
    """A named interval of a thread's time, in seconds."""

    name: str
    start_s: float
    end_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("recipe", nargs="?", default="cifar10", help="recipe (default: cifar10)")
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--steps", type=int, default=4, help="steps in the trace (default: 4)")
    parser.add_argument("--most", type=int, default=12, help="maximum number of rows (default: 12)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Traces some steps and prints a table."""
    check_counts(arguments, steps=1, most=1)
    recipe = find_recipe(arguments.recipe)
    settings = ["distribute.runtime=single", "data.source=synthetic", "data.resize=none",
                "data.augment.resized_crop_min_area=null", *arguments.settings]  # fmt: skip
    config = load_config(recipe, settings)
    import_tensorflow()
    from pipeline.runtimes.devices import own_cores
    from pipeline.runtimes.kinds import start
    from pipeline.training.assembly import build

    runtime = start(config.distribute, deterministic=config.train.deterministic)
    threads, wall_s = _trace(build(config, runtime), arguments.steps)
    rows = rows_of(threads, wall_s * own_cores(1), arguments.steps)
    shown = rows[: arguments.most] + _others(rows[arguments.most :])
    if arguments.json:
        print("\n".join(map(to_json, shown)))
        return 0
    print("\n".join(_table(shown, wall_s / arguments.steps, runtime.parallel_parts)))
    products = sum(row["of_all"] for row in rows if row["is"] == "matrix product")
    print(f"matrix products {products:.1%}, all of these {sum(r['of_all'] for r in rows):.1%}")
    return 0


def _trace(experiment: Any, steps: int) -> tuple[list[list[Event]], float]:
    """Returns the events of each thread in some steps, and the seconds that the steps took."""
    import tensorflow as tf

    from pipeline.training.step import empty_train_sums

    iterator = iter(tf.data.Dataset.from_tensors(next(experiment.train_iterator(0))).repeat())
    experiment.train(iterator, empty_train_sums(), 2)
    with tempfile.TemporaryDirectory(prefix="vit-trace-") as folder:
        with tf.profiler.experimental.Profile(folder):
            start_s = time.perf_counter()
            experiment.train(iterator, empty_train_sums(), steps)
            wall_s = time.perf_counter() - start_s
        (file,) = Path(folder).rglob("*.xplane.pb")
        return list(_threads(file.read_bytes())), wall_s


def _threads(content: bytes) -> Iterator[list[Event]]:
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    for plane in XSpace.FromString(content).planes:
        names = {number: meta.name for number, meta in plane.event_metadata.items()}
        for line in plane.lines:
            yield [
                Event(
                    names[e.metadata_id], e.offset_ps / 1e12, (e.offset_ps + e.duration_ps) / 1e12
                )
                for e in line.events
            ]


def rows_of(threads: Iterable[list[Event]], available_s: float, steps: int) -> list[dict[str, Any]]:
    """Returns seconds and calls per step for each operation, the slowest first.

    Args:
      threads: The events of each thread.
      available_s: The time of all cores together, in seconds.
      steps: The number of steps in the events.
    """
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for events in threads:
        # Events that are not operations count for the operation that contains them.
        for kind, own_s in own_seconds(list(_operations(events))):
            seconds[kind] += own_s
            calls[kind] += 1
    return [
        {
            "operation": kind,
            "is": "matrix product" if _PRODUCTS.match(kind) else "other",
            "seconds": seconds[kind] / steps,
            "of_all": seconds[kind] / available_s,
            "calls": calls[kind] / steps,
        }
        for kind in sorted(seconds, key=lambda kind: -seconds[kind])
    ]


def _operations(events: Iterable[Event]) -> Iterator[Event]:
    for event in events:
        if (found := _OPERATION.match(event.name)) is not None:
            yield event._replace(name=found["kind"])
        elif event.name == _COMPILED:
            yield event._replace(name="XLA's loops")


def own_seconds(events: list[Event]) -> Iterator[tuple[str, float]]:
    """Yields the name of each event and its time without the events nested in it."""
    stack: list[tuple[Event, float]] = []  # Open events, and the time of the events inside them.
    # Of two events with the same start, the longer one contains the other.
    for event in [*sorted(events, key=lambda e: (e.start_s, -e.end_s)), None]:
        while stack and (event is None or stack[-1][0].end_s <= event.start_s):
            closed, inside_s = stack.pop()
            whole_s = closed.end_s - closed.start_s
            yield closed.name, whole_s - inside_s
            if stack:
                stack[-1] = (stack[-1][0], stack[-1][1] + whole_s)
        if event is not None:
            stack.append((event, 0.0))


def _others(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    sums = {name: sum(row[name] for row in rows) for name in ("seconds", "of_all", "calls")}
    return [{"operation": f"{len(rows)} others", "is": "other"} | sums]


def _table(rows: list[dict[str, Any]], step_s: float, threads: int) -> Iterator[str]:
    parallel = f", {threads} microbatches in parallel" if threads > 1 else ""
    yield f"step time {step_s:.3f} s{parallel}"
    yield f"{'':<28}{'ms/step':>10}{'of all':>8}{'calls':>8}"
    for row in rows:
        yield (
            f"{row['operation']:<28}{1e3 * row['seconds']:>10.1f}{row['of_all']:>8.1%}"
            f"{row['calls']:>8,.0f}"
        )
