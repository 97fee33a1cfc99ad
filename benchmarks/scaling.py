"""`python -m benchmarks scaling --workers 1,2`"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.command import check_counts
from pipeline.config import Config, dump_config, load_config
from pipeline.errors import PipelineError, SettingsError
from pipeline.launch.job import local_launch_command
from pipeline.recipes import find_recipe
from pipeline.runtimes.interpreter import python_command
from pipeline.runtimes.nvidia import find_gpus
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

RUNTIMES = ("horovod", "multi_worker")

_EPILOG = """\
Trains on synthetic images, with a fixed number of images per worker. Without GPUs, each worker has
its own core and one thread. The same processes measure in turn the step as it is and the step
without the reduction of gradients. "reduction" is the reduction alone. Processes are started
--repeats times, all configurations in turn; the results are medians. For comparison, the table
shows one process on one core, the same number of independent processes, and on the CPU one process
with all cores and the same global batch.

--variant measures Horovod again with other Horovod settings, such as HOROVOD_CYCLE_TIME=5
(milliseconds) or HOROVOD_FUSION_THRESHOLD=0 (bytes). "grouped" reduces all gradients in one
operation instead of one operation for each.
"""


@dataclass(frozen=True)
class Kind:
    """A configuration to measure: processes of one runtime, with environment variables."""

    runtime: str
    workers: int
    cores: int
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        words = [f"{self.runtime}, {self.workers} worker{'s' if self.workers > 1 else ''}"]
        if self.runtime == "single":
            words = [f"one process, {self.cores} core{'s' if self.cores > 1 else ''}"]
        if self.runtime == "apart":
            words = [f"{self.workers} independent processes"]
        return " ".join(words + [f"{name}={value}" for name, value in self.variables])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("recipe", nargs="?", default="cifar10", help="recipe (default: cifar10)")
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--workers", help="numbers of workers (default: 1, and 2 if possible)")
    parser.add_argument(
        "--runtimes", default=",".join(RUNTIMES), help=f"a selection of {','.join(RUNTIMES)}"
    )
    parser.add_argument("--batch", type=int, default=64, help="images per worker (default: 64)")
    parser.add_argument("--steps", type=int, default=2, help="steps per timing (default: 2)")
    parser.add_argument(
        "--rounds", type=int, default=4, help="number of timings per start (default: 4)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="number of starts of each configuration (default: 3)"
    )
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME=VALUE", help="can be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures all configurations and prints a table."""
    check_counts(arguments, batch=1, steps=1, rounds=1, repeats=1)
    gpus = find_gpus(os.environ)
    cores = [] if gpus else sorted(os.sched_getaffinity(0))
    config = load_config(find_recipe(arguments.recipe), arguments.settings)
    kinds = list(_kinds(arguments, len(gpus or cores), bool(gpus)))
    found: dict[Kind, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="vit-scaling-") as folder:
        for _ in range(arguments.repeats):
            for kind in kinds:
                found[kind].append(_measure(kind, config, arguments, cores, Path(folder)))
    rows = [_row(kind, measured) for kind, measured in found.items()]
    if arguments.json:
        print("\n".join(to_json(row) for row in rows))
    else:
        print("\n".join(_table(rows)))
    return 0


def _kinds(arguments: argparse.Namespace, places: int, on_gpus: bool) -> Iterator[Kind]:
    usual = "1,2" if places > 1 else "1"
    texts = (usual if arguments.workers is None else arguments.workers).split(",")
    counts = [int(text) for text in texts if text.isdecimal()]
    runtimes = arguments.runtimes.split(",")
    if len(counts) < len(texts) or min(counts) < 1 or max(counts) > places:
        raise SettingsError(
            f"--workers must be numbers of 1 to {places}: each worker needs its own core or GPU. "
            f"Received: {arguments.workers!r}"
        )
    if not set(runtimes) <= set(RUNTIMES):
        raise SettingsError(
            f"--runtimes must be some of {','.join(RUNTIMES)}. Received: {arguments.runtimes!r}"
        )
    variants = [tuple(text.partition("=")[::2]) for text in arguments.variant]
    if not all(name and value for name, value in variants):
        raise SettingsError(f"--variant must be NAME=VALUE. Received: {arguments.variant}")
    yield Kind("single", 1, 1)
    for count in (n for n in counts if n > 1):
        if not on_gpus:
            yield Kind("single", 1, count)
        yield Kind("apart", count, count)
        for runtime in runtimes:
            yield Kind(runtime, count, count)
        for variant in variants:
            yield Kind("horovod", count, count, (variant,))


def _measure(
    kind: Kind,
    config: Config,
    arguments: argparse.Namespace,
    cores: Sequence[int],
    folder: Path,
) -> dict[str, float]:
    """Starts the processes of a configuration and returns their measurements."""
    recipe = folder / "recipe.yaml"
    replace_file(recipe, dump_config(_config(kind, config, arguments.batch, bool(cores))))
    starts = [list(cores[: kind.cores])]
    if kind.runtime == "apart":
        starts = [[core] for core in cores[: kind.cores]] or [[]] * kind.workers
    results = [folder / f"result-{i}.json" for i in range(len(starts))]
    processes = [
        subprocess.Popen(
            [*_launcher(kind), *python_command("-m", "benchmarks.scaling_rank"), recipe, result,
             str(arguments.rounds), str(arguments.steps), ",".join(map(str, own))],
            env=os.environ | dict(kind.variables) | _gpu(kind, i),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i, (own, result) in enumerate(zip(starts, results, strict=True))
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            raise PipelineError(f"{kind.title} failed:\n{output[-6000:]}")
    measured = [json.loads(result.read_text()) for result in results]
    return {name: sum(float(one[name]) for one in measured) for name in measured[0]}


def _config(kind: Kind, config: Config, batch: int, on_cpu: bool) -> Config:
    images = batch * (1 if kind.runtime == "apart" else kind.cores)
    tree = config.model_dump()
    tree["data"] |= {
        "source": "synthetic", "global_batch_size": images, "num_examples": 8 * images,
    }  # fmt: skip
    if tree["train"]["xla"] == "auto" and not on_cpu:  # Each process would choose for itself.
        tree["train"]["xla"] = "never"
    tree["distribute"]["runtime"] = "single" if kind.runtime == "apart" else kind.runtime
    if on_cpu:
        tree["data"]["threads"] = 1
        if kind.runtime != "single":
            tree["distribute"]["intra_op_threads"] = 1
    return Config.model_validate(tree)


def _launcher(kind: Kind) -> list[str]:
    if kind.runtime in ("single", "apart"):
        return []
    return local_launch_command(kind.workers, kind.runtime)


def _gpu(kind: Kind, index: int) -> dict[str, str]:
    """Returns the variable that assigns a GPU to a process without a launcher."""
    gpus = find_gpus(os.environ)
    if kind.runtime not in ("single", "apart") or not gpus:
        return {}
    return {"CUDA_VISIBLE_DEVICES": gpus[index]}


def _row(kind: Kind, measured: Sequence[Mapping[str, float]]) -> dict[str, float | str]:
    medians = {name: median(one[name] for one in measured) for name in measured[0]}
    if "without_reduction" in medians:
        # The median of ratios from the same processes, not a ratio of medians.
        medians["of_without_reduction"] = median(
            one["images_per_second"] / one["without_reduction"] for one in measured
        )
    rates = [one["images_per_second"] for one in measured]
    return {"kind": kind.title, **medians, "least": min(rates), "most": max(rates)}


def _table(rows: Sequence[Mapping[str, float | str]]) -> Iterator[str]:
    one = float(rows[0]["images_per_second"])
    yield (
        f"{'':<44}{'images/s':>10}{'of one':>8}{'without reduction':>19}{'kept':>8}"
        f"{'grouped':>9}{'reduction':>11}"
    )
    for row in rows:
        rate = float(row["images_per_second"])
        line = f"{row['kind']:<44}{rate:>10.1f}{rate / one:>8.2f}"
        if "without_reduction" in row:
            grouped = f"{float(row['grouped']):>9.1f}" if "grouped" in row else f"{'':>9}"
            line += f"{float(row['without_reduction']):>19.1f}"
            line += f"{float(row['of_without_reduction']):>8.1%}{grouped}"
            line += f"{float(row['reduction_ms']):>8.1f} ms"
        yield line
