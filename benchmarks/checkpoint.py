"""`python -m benchmarks checkpoint`"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.command import check_counts
from pipeline.config import Config, parse_config
from pipeline.errors import SettingsError
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.storage.folders import make_folder, remove_folder
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    from pipeline.training.saver import Saver

_EPILOG = """\
Uses the weights, two moments and averaged weights of a network for 1,000 classes at 224 px. Each
operation is measured --rounds times in turn; the results are medians:
  variables copied  only copies the variables to host memory: the minimum time that a save can take
                    from training
  training stood    until the save returns; writing continues in the background
  written           until everything is on disk, including checksums, sync and rename
  copied and synced the same files, with shutil.copyfile and fsync
  restored          the checkpoint is verified, read, and assigned to the variables
  copied            the same files, with shutil.copyfile only
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["S/16", "B/16"],
        help="model variants (default: S/16 B/16)",
    )
    parser.add_argument("--dir", help="folder to write to (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures each variant."""
    check_counts(arguments, rounds=1)
    if arguments.dir is not None and not Path(arguments.dir).is_dir():
        raise SettingsError(f"--dir must be an existing folder. Received: {arguments.dir}")
    rows = []
    for variant in arguments.variants:
        config = parse_config(
            {
                "data": {"source": "synthetic", "image_size": 224, "resize": "none",
                         "num_classes": 1000, "num_examples": 16, "global_batch_size": 2},
                "model": {"variant": variant},
                "optim": {"ema_momentum": 0.999},
                "distribute": {"runtime": "single"},
            },
            "--variants",
        )  # fmt: skip
        import_tensorflow()
        with tempfile.TemporaryDirectory(prefix="vit-benchmark-", dir=arguments.dir) as folder:
            rows.append({"variant": variant} | _measure(config, Path(folder), arguments.rounds))
    print(to_json(rows) if arguments.json else "\n".join(_table(rows)))
    return 0


def _measure(config: Config, folder: Path, rounds: int) -> dict[str, Any]:
    from pipeline.runs.folder import RunFolder
    from pipeline.runtimes.kinds import start
    from pipeline.training.assembly import build
    from pipeline.training.position import TrainingPosition
    from pipeline.training.saver import Saver

    experiment = build(config, start(config.distribute, deterministic=config.train.deterministic))
    variables = [v for group in experiment.variables.values() for v in group.values()]
    run = RunFolder(folder)
    run.lock.acquire(print)  # Required for saving.
    saver = Saver(experiment, run, print, lambda: None)
    seconds: dict[str, list[float]] = {}

    def note(name: str, function: Callable[..., Any], *arguments: Any) -> None:
        start_s = time.perf_counter()
        function(*arguments)
        seconds.setdefault(name, []).append(time.perf_counter() - start_s)

    def restore(step: int) -> None:
        experiment.restore(saver.store.load(step))

    for number in range(1, rounds + 1):
        note("variables_copied_s", lambda: [v.value.numpy() for v in variables])
        _save(saver, number, TrainingPosition(), seconds)
        source, target = saver.store.path(number), folder / "copy"
        note("copied_and_synced_s", _copy, source, target, True)
        note("restored_s", restore, number)
        note("copied_s", _copy, source, target, False)
    saver.close()
    run.close()
    stood_s = seconds["training_stood_s"]
    return (
        {"megabytes": experiment.checkpoint_bytes / 1e6}
        | {name: median(times) for name, times in seconds.items()}
        | {"least": min(stood_s), "most": max(stood_s)}
    )


def _save(saver: Saver, step: int, progress: Any, seconds: dict[str, list[float]]) -> None:
    start_s = time.perf_counter()
    saver.save(step, progress)
    saver.finish()
    seconds.setdefault("written_s", []).append(time.perf_counter() - start_s)
    seconds.setdefault("training_stood_s", []).append(saver.take_blocked_s())


def _copy(source: Path, target: Path, sync: bool) -> None:
    remove_folder(target)
    make_folder(target)
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
        if sync:
            descriptor = os.open(target / file.name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        megabytes = row["megabytes"]
        yield f"{row['variant']}: {megabytes:,.0f} MB"
        for name in ("variables_copied", "training_stood", "written", "copied_and_synced",
                     "restored", "copied"):  # fmt: skip
            seconds = row[f"{name}_s"]
            title = name.replace("_", " ")
            yield f"  {title:<20}{seconds:>8.3f} s{megabytes / seconds:>10,.0f} MB/s"
        yield (
            f"  a save stops training {row['training_stood_s'] / row['variables_copied_s']:.2f} "
            f"times as long as a copy of the variables; restoring reaches "
            f"{row['copied_s'] / row['restored_s']:.0%} of the speed of a plain copy, writing "
            f"{row['copied_and_synced_s'] / row['written_s']:.0%} of that of a synced copy"
        )
