"""`python -m benchmarks waiting RECIPE`"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.command import check_counts
from benchmarks.photographs import make_photographs
from pipeline.config import Config, load_config
from pipeline.data.sources.find_source import find_source
from pipeline.errors import SettingsError
from pipeline.recipes import find_recipe
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

_EPILOG = """\
Measures the capacity of the input stage in batches per second. Then batches are used at a fraction
of it by a step that sleeps, as a step on a GPU leaves the processor idle. The fraction of the time
in which the step waits for input is what training calls input_wait_fraction. All loads are measured
in turn, --rounds times; the results are medians.
"""

_WARM_UP_BATCHES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("recipe", nargs="?", default="image_folder", help="default: image_folder")
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument(
        "--photographs", type=int, default=256, help="number of JPEGs (default: 256)"
    )
    parser.add_argument("--loads", default="0.5,0.8,0.95", help="default: 0.5,0.8,0.95")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a timing (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures the capacity and each load."""
    check_counts(arguments, photographs=20, rounds=1)
    try:
        loads = [float(load) for load in arguments.loads.split(",")]
    except ValueError:
        loads = []
    if not loads or not all(0 < load < 1 for load in loads):
        raise SettingsError(f"--loads must be between 0 and 1. Received: {arguments.loads}")
    config = load_config(find_recipe(arguments.recipe), arguments.settings)
    with tempfile.TemporaryDirectory(prefix="vit-waiting-") as name:
        folder = make_photographs(Path(name), arguments.photographs)
        data = config.data.model_copy(update=find_source(str(folder)))
        rows = _measure(config.model_copy(update={"data": data}), arguments, loads)
    print("\n".join(to_json(row) if arguments.json else _line(row) for row in rows))
    return 0


def _measure(
    config: Config, arguments: argparse.Namespace, loads: list[float]
) -> list[dict[str, Any]]:
    import_tensorflow()
    from pipeline.data.input import train_dataset
    from pipeline.data.shard import Shard
    from pipeline.data.sources.source import open_source

    source = open_source(config.data, config.seed)
    dataset = train_dataset(
        source.splits["train"], config.data, num_classes=len(source.classes), mean=(0.5,) * 3,
        std=(0.5,) * 3, seed=config.seed, start_step=0, shard=Shard(),
    )  # fmt: skip
    rates: list[float] = []
    waits: dict[float, list[float]] = {load: [] for load in loads}
    for _ in range(arguments.rounds):
        rates.append(_capacity(iter(dataset), arguments.seconds))
        for load in loads:
            step_s = 1 / (load * median(rates))
            waits[load].append(_wait_fraction(iter(dataset), step_s, arguments.seconds))
    images = median(rates) * config.data.global_batch_size
    return [
        {"load": load, "capacity_images_per_second": images, "input_wait_fraction": median(found)}
        for load, found in waits.items()
    ]


def _capacity(batches: Iterator[Any], seconds: float) -> float:
    """Batches per second if nothing else is done."""
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    count, start_s = 0, time.perf_counter()
    while time.perf_counter() - start_s < seconds:
        next(batches)
        count += 1
    return count / (time.perf_counter() - start_s)


def _wait_fraction(batches: Iterator[Any], step_s: float, seconds: float) -> float:
    """Fraction of the time spent waiting for batches by steps that take `step_s`."""
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
        time.sleep(step_s)
    waited_s, start_s = 0.0, time.perf_counter()
    while (begin_s := time.perf_counter()) - start_s < seconds:
        next(batches)
        waited_s += time.perf_counter() - begin_s
        time.sleep(step_s)
    return waited_s / (time.perf_counter() - start_s)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['load']:.0%} of {row['capacity_images_per_second']:,.0f} images/s: "
        f"input_wait_fraction {row['input_wait_fraction']:.3f}"
    )
