"""`python -m benchmarks all`: all but accuracy and reproducibility, written as a Markdown page."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.command import BENCHMARKS
from pipeline.cores import available_cores
from pipeline.errors import SettingsError
from pipeline.runtimes.interpreter import python_command
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

_EPILOG = """\
Writes the page --out, and next to it a plot and a JSON file with the same rows. They contain a
description of the machine, the versions of packages, and for each benchmark its command, its rows
and its duration. Rows are medians (operations: of a single trace). "least" and "most" are the
smallest and the largest measured rate, or time if there is no rate. Each command can also be run
separately. The page is written after each benchmark. Nothing else should run at the same time.
"""


class Section(NamedTuple):
    """One benchmark on the page.

    Attributes:
      title: The heading.
      command: The arguments after `python -m benchmarks`.
      drawn: The column that the plot shows.
    """

    title: str
    command: tuple[str, ...]
    drawn: str


_PHOTOGRAPHS = ("image_folder", "--photographs", "256", "data.image_size=224")
SECTIONS = (
    Section("Step", ("step", "--rounds", "3"), "images_per_second"),
    Section("Operations of a step", ("operations",), "of_all"),
    Section("Pieces of a step", ("kernels",), "milliseconds"),
    Section("Loop", ("loop", "--steps", "50"), "share"),
    Section(
        "Input, small images in memory",
        ("input", "cifar10", "data.source=synthetic", "data.num_examples=50000"),
        "images_per_second",
    ),
    Section("Input, photographs", ("input", *_PHOTOGRAPHS), "images_per_second"),
    Section("Scaling", ("scaling", "--repeats", "2"), "images_per_second"),
    Section("Reduction", ("reduction",), "seconds"),
    Section("Deterministic training", ("deterministic",), "share"),
    Section("Memory", ("memory", "--rounds", "1"), "added_mib"),
    Section("Checkpoint", ("checkpoint",), "training_stood_s"),
    Section("Start", ("startup",), "seconds"),
    Section("Start with a million files", ("files",), "seconds"),
)
_PACKAGES = (
    "vit-pipeline",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "keras-hub",
    "numpy",
    "horovod",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("--out", type=Path, default=Path("BENCHMARKS.md"))
    parser.add_argument("--only", help="a selection, such as step,loop")
    parser.add_argument("--quick", action="store_true", help="measure each once, to test the page")
    parser.epilog = _EPILOG


_QUICK = {
    "step": ("--cases=keras_example", "--batch=8", "--steps=1", "--rounds=1"),
    "operations": ("digits", "--steps=1"),
    "kernels": ("--images=8", "--rounds=1"),
    "loop": ("digits", "--steps=4", "--rounds=1"),
    "deterministic": ("--cases=cifar", "--steps=1", "--rounds=1", "data.global_batch_size=16"),
    "input": ("--seconds=0.1", "--rounds=1", "data.global_batch_size=8"),
    "scaling": ("--batch=4", "--steps=1", "--rounds=1", "--repeats=1"),
    "reduction": ("--workers=2", "--kib=1,64", "--times=2", "--repeats=1"),
    "memory": ("digits", "--steps=1", "--rounds=1"),
    "checkpoint": ("--variants", "Ti/32", "--rounds=1"),
    "startup": ("--repeats=1",),
    "files": ("--files=200", "--classes=20"),
}


def run(arguments: argparse.Namespace) -> int:
    """Runs the benchmarks one after another; returns 1 if one failed, which the page shows."""
    names = list(dict.fromkeys(section.command[0] for section in SECTIONS))
    wanted = arguments.only.split(",") if arguments.only else names
    if unknown := [name for name in wanted if name not in names]:
        raise SettingsError(f"--only must be some of {','.join(names)}. Received: {unknown[0]}")
    if not os.access(arguments.out.parent, os.W_OK):  # Checked before anything is measured.
        raise SettingsError(f"--out: {arguments.out.parent} is not writable")
    found: list[dict[str, Any]] = []
    for section in (s for s in SECTIONS if s.command[0] in wanted):
        more = _QUICK[section.command[0]] if arguments.quick else ()
        found.append(_measure(section, [*section.command, *more]))
        _write_all(arguments.out, found)  # After each, so that nothing is lost if it is stopped.
    print(f"written: {arguments.out}", file=sys.stderr)
    return int(any(not one["rows"] for one in found))


def _write_all(out: Path, found: list[dict[str, Any]]) -> None:
    from benchmarks.bars import draw

    facts = machine() | {"date": time.strftime("%Y-%m-%d", time.gmtime())}
    content = to_json({"machine": facts, "sections": found}, indent=1)
    _write(out.with_suffix(".json"), content + "\n")
    picture = out.with_suffix(".png")
    draw([(one["title"], one["drawn"], one["rows"]) for one in found if one["rows"]], picture)
    _write(out, "\n".join(page(facts, found, picture.name)))


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, text)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}") from None


def _measure(section: Section, command: list[str]) -> dict[str, Any]:
    print(f"python -m benchmarks {' '.join(command)}", file=sys.stderr, flush=True)
    start_s = time.monotonic()
    done = subprocess.run(
        python_command("-m", "benchmarks", *command, "--json"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "title": section.title,
        "command": f"python -m benchmarks {' '.join(command)}",
        "about": BENCHMARKS[command[0]],
        "drawn": section.drawn,
        "seconds": round(time.monotonic() - start_s),
        "rows": [] if done.returncode else list(rows_of(done.stdout)),
        "error": "\n".join(done.stderr.splitlines()[-5:]) if done.returncode else "",
    }


def rows_of(text: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of a benchmark's --json output: one object or list of objects per line."""
    for line in text.splitlines():
        if line.startswith(("{", "[")):
            read = json.loads(line)
            yield from read if isinstance(read, list) else [read]


def machine() -> dict[str, str]:
    """Describes this machine and the installed packages."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    facts = {
        "processor": models[0] if models else platform.machine(),
        "cores": str(available_cores()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


def page(facts: dict[str, str], found: list[dict[str, Any]], picture: str) -> Iterator[str]:
    """Yields the lines of the page."""
    yield "# Benchmarks\n"
    yield "Written by `make benchmark`. Rows are medians (operations: of a single trace).\n"
    yield ", ".join(f"{name} {value}" for name, value in facts.items()) + ".\n"
    yield f"![results of all benchmarks]({picture})\n"
    for one in found:
        yield f"## {one['title']}\n"
        yield f"`{one['command']}` ({one['seconds']} s): {one['about']}.\n"
        if one["rows"]:
            yield from table(one["rows"])
        else:
            yield f"It failed:\n\n```\n{one['error']}\n```"
        yield ""


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yields a Markdown table with a column for each name that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield "| " + " | ".join(_title(name) for name in names) + " |"
    text = {name for row in rows for name, value in row.items() if isinstance(value, str)}
    yield "|" + "|".join("---" if name in text else "---:" for name in names) + "|"
    for row in rows:
        yield "| " + " | ".join(_cell(row.get(name)) for name in names) + " |"


def _title(name: str) -> str:
    return name.replace("_per_second", "/s").replace("_", " ")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
