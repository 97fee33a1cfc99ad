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
What the time of a training step goes by, operation by operation, on random images that lie in
memory: from TensorFlow's trace of --steps steps. An operation's time is its own, without that of
operations inside it. "of all" is the part of the time of all cores: what is missing to 100 % they
waited, helped an operation on another core, or did what has no name. "XLA's loops" are chains of
operations that were compiled.

On a CPU; on a GPU look at the trace of `monitor.profile_steps` in TensorBoard.
"""

# The kernel's name in a trace: node, and kind of operation; or what XLA has compiled.
_OPERATION = re.compile(r"[^:\s]+:(?P<kind>[A-Za-z_]\w*)$")
_COMPILED = "CpuExecutable::ExecuteAsyncOnStream"
_PRODUCTS = re.compile(r"_?(Fused|Mkl|Batch|Native)*_?(MatMul|Conv2D)")


class Event(NamedTuple):
    """A stretch of a thread's time, in seconds; its name as the trace has it."""

    name: str
    start_s: float
    end_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("recipe", nargs="?", default="cifar10", help="default: cifar10")
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--steps", type=int, default=4, help="in the trace (default: 4)")
    parser.add_argument("--most", type=int, default=12, help="rows (default: 12)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Traces, and prints a table."""
    check_counts(arguments, steps=1, most=1)
    recipe = find_recipe(arguments.recipe)
    settings = ["distribute.runtime=single", "data.source=synthetic", "data.resize=none",
                "data.augment.resized_crop_min_area=null", *arguments.settings]  # fmt: skip
    config = load_config(recipe, settings)
    import_tensorflow()
    from pipeline.runtimes.devices import own_cores
    from pipeline.runtimes.kinds import start
    from pipeline.training.experiment import build

    runtime = start(config.distribute)
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
    """Each thread's events in some steps, and the seconds those steps took."""
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
    """Seconds and calls a step of each kind of operation, the longest first.

    Args:
      threads: The events of each.
      available_s: Seconds of all cores.
      steps: In them.
    """
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for events in threads:
        # What has no operation's name is a part of the operation that it happens in.
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
    """Each event's time without that of events inside it, which a thread's events are nested in."""
    stack: list[tuple[Event, float]] = []  # what is open, and the time of what was in it
    # What begins at the same time is in what ends later.
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
    side_by_side = f", {threads} parts side by side" if threads > 1 else ""
    yield f"a step of {step_s:.3f} s{side_by_side}"
    yield f"{'':<28}{'ms a step':>10}{'of all':>8}{'calls':>8}"
    for row in rows:
        yield (
            f"{row['operation']:<28}{1e3 * row['seconds']:>10.1f}{row['of_all']:>8.1%}"
            f"{row['calls']:>8,.0f}"
        )
