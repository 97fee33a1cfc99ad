"""`python -m benchmarks reproducibility`"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.combinations import Combination, combinations
from benchmarks.command import check_counts
from benchmarks.digit_files import write_digits
from benchmarks.trained_bits import TrainedBits, read_bits, read_rows
from pipeline.errors import PipelineError, SettingsError
from pipeline.runtimes.interpreter import python_command
from pipeline.strict_json import to_json

_EPILOG = """\
Trains with train.deterministic=true on every runtime, with different numbers of workers and cores,
from different kinds of files, and once with two interruptions by SIGKILL. The table shows the first
digits of the SHA-256 of the final weights, of their moving average (EMA), and of every loss in
metrics.jsonl. "same" and "DIFFERENT" compare all digits with the first combination of the same
images. Every run is a `vit train` command in a process of its own; --commands prints it. The exit
code is 1 if a combination differs or fails.

The recipe is digits, with dropout, stochastic depth, RandAugment, erasing, mixup, CutMix, label
smoothing, clipping, EMA, layer decay and accumulation. --cifar10 adds one epoch of the recipe
cifar10, in float32 and bfloat16.
"""
_DIGITS = 16  # Digits of SHA-256 in the table.
_ALWAYS = (
    "train.deterministic=true",
    "train.log_every_steps=5",
    "checkpoint.every_steps=10",
    "checkpoint.every_epochs=null",
    # None of these affects the weights, and the processor's peak would be measured for each run.
    "monitor.report=false",
    "monitor.pictures=false",
    "monitor.peak_tflops=1",
)
_COLUMNS = ("combination", "seconds", "weights", "EMA", "losses", "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("--epochs", type=float, default=40, help="epochs of digits (default: 40)")
    parser.add_argument(
        "--combinations", default="*", metavar="PATTERN,...",
        help="names such as single-1,horovod-*,killed,folder-*,cifar10-float32-* (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--cifar10", type=Path, metavar="ARCHIVE",
        help="a ZIP file of CIFAR-10 as images, train/<class>/* and test/<class>/*",
    )  # fmt: skip
    parser.add_argument(
        "--cifar10-steps", type=int, metavar="STEPS", help="train so many steps, not one epoch"
    )
    parser.add_argument("--commands", action="store_true", help="print the commands")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Trains all selected combinations and prints a row for each."""
    check_counts(arguments, cifar10_steps=1)
    chosen = select(arguments.combinations, cifar10=arguments.cifar10 is not None)
    references: dict[str, TrainedBits] = {}
    is_same = True
    if not arguments.json:
        print("\n".join(header()), flush=True)
    with tempfile.TemporaryDirectory(prefix="vit-reproducibility-") as folder:
        data = _make_data({one.data for one in chosen}, Path(folder), arguments.cifar10)
        for combination in chosen:
            start_s = time.monotonic()
            bits = None
            try:
                bits = _train(combination, data[combination.data], arguments, Path(folder))
                references.setdefault(combination.group, bits)
            except PipelineError as error:
                print(error, file=sys.stderr, flush=True)
            seconds = time.monotonic() - start_s
            row = row_of(combination, seconds, bits, references.get(combination.group))
            is_same = is_same and row["result"] in ("reference", "same")
            print(to_json(row) if arguments.json else line_of(row), flush=True)
    return int(not is_same)


def select(patterns: str, *, cifar10: bool) -> list[Combination]:
    """Returns the combinations whose names match any of the patterns.

    Args:
      patterns: Names with wildcards, separated by commas.
      cifar10: Whether to include those that train CIFAR-10.

    Raises:
      SettingsError: A pattern matches no combination.
    """
    possible = [one for one in combinations() if cifar10 or one.data != "cifar10"]
    wanted = patterns.split(",")
    for pattern in wanted:
        if not any(fnmatch(one.name, pattern) for one in possible):
            names = ", ".join(one.name for one in possible)
            raise SettingsError(
                f"--combinations must be some of {names}. Received: {pattern!r}"
                + ("" if cifar10 else ". Those of CIFAR-10 need --cifar10")
            )
    return [one for one in possible if any(fnmatch(one.name, pattern) for pattern in wanted)]


def row_of(
    combination: Combination,
    seconds: float,
    bits: TrainedBits | None,
    reference: TrainedBits | None,
) -> dict[str, Any]:
    """Describes the result of a combination.

    Args:
      combination: The combination.
      seconds: Its time.
      bits: What it has trained; None if it failed.
      reference: What the first successful combination of its group has trained.
    """
    row = {"name": combination.name, "combination": combination.title, "seconds": seconds}
    if bits is None:
        return row | {"result": "FAILED"}
    is_first = bits is reference
    result = "reference" if is_first else "same" if bits == reference else "DIFFERENT"
    return row | bits._asdict() | {"result": result}


def header() -> Iterator[str]:
    """Yields the lines above the rows of the Markdown table."""
    yield "| " + " | ".join(_COLUMNS) + " |"
    yield "|---|---:|---|---|---|---|"


def line_of(row: dict[str, Any]) -> str:
    """Returns a row of the Markdown table."""
    digests = [(row.get(name) or "")[:_DIGITS] for name in TrainedBits._fields]
    cells = [row["combination"], f"{row['seconds']:.0f}", *digests, row["result"]]
    return "| " + " | ".join(cells) + " |"


def _make_data(
    kinds: set[str], folder: Path, archive: Path | None
) -> dict[str, tuple[str, list[str]]]:
    """Writes the files and returns the recipe and the settings of each kind of data."""
    images = folder / "digits"
    if kinds & {"folder", "list", "records"}:
        write_digits(images)
    if "records" in kinds:
        prepare = ("-m", "jobs.cli", "prepare", images, folder / "records")
        _wait(_start([*python_command(*map(str, prepare))], folder / "prepare.log"))
    if "cifar10" in kinds and archive is not None:
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(folder / "cifar10")
        except (OSError, zipfile.BadZipFile) as error:
            raise SettingsError(f"--cifar10: cannot read {archive}: {error}") from None
    paths = {
        "folder": ("image_folder", images), "list": ("list", images / "list.csv"),
        "records": ("records", folder / "records"), "cifar10": ("image_folder", folder / "cifar10"),
    }  # fmt: skip
    found: dict[str, tuple[str, list[str]]] = {"digits": ("digits", [])}
    for kind, (source, path) in paths.items():
        recipe = "cifar10" if kind == "cifar10" else "digits"
        found[kind] = recipe, [f"data.source={source}", f"data.path={path}"]
    return found


def _train(
    combination: Combination,
    data: tuple[str, Sequence[str]],
    arguments: argparse.Namespace,
    folder: Path,
) -> TrainedBits:
    """Trains a combination in a new run folder.

    Raises:
      PipelineError: A command failed.
    """
    recipe, settings = data
    run, log = folder / combination.name, folder / f"{combination.name}.log"
    epochs = arguments.epochs if recipe == "digits" else 1
    length = [f"train.epochs={epochs:g}", f"train.evaluate_every_epochs={epochs / 4:g}"]
    if recipe == "cifar10" and arguments.cifar10_steps is not None:
        length.append(f"train.max_steps={arguments.cifar10_steps}")
    train = ["train", recipe, *_ALWAYS, *length, *settings, *combination.settings]
    for number, start in enumerate(combination.starts, 1):
        # `vit` itself, so that no launcher needs to find it.
        vit = python_command("-m", "jobs.cli", *train, *start.settings, f"run.dir={run}")
        command = [*start.prefix(sorted(os.sched_getaffinity(0))), *vit]
        if arguments.commands:
            print(" ".join(command), file=sys.stderr, flush=True)
        process = _start(command, log)
        if number < len(combination.starts):
            _kill_after(process, run, epochs * number / len(combination.starts))
        else:
            _wait(process)
    return read_bits(run)


class _Process(subprocess.Popen[bytes]):
    """A process whose output is added to a file."""

    log: Path


def _start(command: Sequence[str], log: Path) -> _Process:
    with log.open("ab") as stream:
        process = _Process(command, stdout=stream, stderr=subprocess.STDOUT)
    process.log = log
    return process


def _wait(process: _Process) -> None:
    try:
        process.wait()
    finally:
        process.kill()
    if process.returncode:
        raise _failure(process)


def _kill_after(process: _Process, run: Path, epoch: float) -> None:
    """Kills a process, and with it those that it has launched, in the middle of training."""
    try:
        while not any(row["epoch"] >= epoch for row in read_rows(run)):
            if process.poll() is not None:
                raise _failure(process)
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


def _failure(process: _Process) -> PipelineError:
    output = process.log.read_text(errors="replace")
    return PipelineError(f"exit code {process.returncode}:\n{output[-6000:]}")
