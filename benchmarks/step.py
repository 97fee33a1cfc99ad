"""`python -m benchmarks step`"""

from __future__ import annotations

import argparse
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Self

from benchmarks.command import check_counts
from pipeline.config import Config, dump_config, parse_config
from pipeline.config.overrides import apply_override
from pipeline.errors import PipelineError, SettingsError
from pipeline.runtimes.interpreter import python_command
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

_EPILOG = """\
Measures images/s of training steps on random images in memory: forward and backward pass, gradient
clipping if the recipe has it, and the optimizer. The implementations take turns, each in a separate
process that has built its graph before. The results are medians, with minimum and maximum.

  ours       the training step of this package
  ours-xla   the same with train.xla=always
  example    the layers of the Keras example with Keras's AdamW and model.fit (case keras_example)
  keras-hub  keras_hub.models.ViTImageClassifier of the same size with model.fit, if keras-hub is
             installed (not for case keras_example: keras-hub does not support such large heads)

"of peak" compares the FLOP/s of the network (matrix products only) with those of a product of two
large matrices on the same device, measured in the same run, as an upper limit.
"""


class Case(NamedTuple):
    """A network to measure.

    Attributes:
      variant: The value of `model.variant`.
      image_size: Height and width in pixels.
      batch: Images per step; --batch replaces it.
      num_classes: The number of classes.
    """

    variant: str
    image_size: int
    batch: int
    num_classes: int


CASES = {
    "keras_example": Case("keras_example", 72, 256, 100),
    "cifar": Case("cifar", 32, 128, 100),
    "S/16": Case("S/16", 224, 16, 1000),
    "B/16": Case("B/16", 224, 8, 1000),
}
_PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# Child processes import the repository's modules whatever their current folder is.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--cases", default="keras_example,cifar,S/16", help=", ".join(CASES))
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--batch", type=int, help="images per step (default: depends on the case)")
    parser.add_argument("--steps", type=int, default=2, help="steps per timing (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="number of timings (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures each case in each precision."""
    cases, precisions = arguments.cases.split(","), arguments.precisions.split(",")
    if unknown := [name for name in cases if name not in CASES]:
        raise SettingsError(f"--cases must be some of {', '.join(CASES)}. Received: {unknown[0]}")
    if unknown := [name for name in precisions if name not in _PRECISIONS]:
        raise SettingsError(
            f"--precisions must be some of {', '.join(_PRECISIONS)}. Received: {unknown[0]}"
        )
    check_counts(arguments, batch=1, steps=1, rounds=1)
    import_tensorflow()
    for name in cases:
        for precision in precisions:
            rows = _measure(CASES[name], name, precision, arguments)
            lines = map(to_json, rows) if arguments.json else _table(rows)
            print("\n".join(lines), flush=True)
    return 0


def _measure(
    case: Case, name: str, precision: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    from benchmarks.step_contenders import contenders, flops_of

    batch = arguments.batch or case.batch
    config = _config(case, precision, batch, arguments.settings)
    found = _ask_in_turn([*contenders(name), "peak"], config, arguments)
    peak, seconds = max(found.pop("peak")), found
    flops = flops_of(config)
    rows = []
    for who, times in seconds.items():
        rates = [arguments.steps * batch / s for s in times]
        rows.append(
            {
                "case": name,
                "precision": precision,
                "batch": batch,
                "who": who,
                "images_per_second": median(rates),
                "least": min(rates),
                "most": max(rates),
                "ours_is": median(arguments.steps * batch / s for s in seconds["ours"])
                / median(rates),
                "flops_per_second": flops * median(rates),
                "peak_flops_per_second": peak,
            }
        )
    return rows


def _config(case: Case, precision: str, batch: int, settings: list[str]) -> Config:
    tree: dict[str, Any] = {
        "data": {"source": "synthetic", "image_size": case.image_size, "resize": "none",
                 "num_classes": case.num_classes, "num_examples": 2 * batch,
                 "global_batch_size": batch},
        "model": {"variant": case.variant},
        "optim": {"weight_decay": 0.1, "lr_scaling": "none"},
        "train": {"precision": _PRECISIONS[precision], "xla": "auto"},
        "distribute": {"runtime": "single"},
    }  # fmt: skip
    origins: dict[str, str] = {}
    for setting in settings:
        apply_override(tree, origins, setting)
    return parse_config(tree, "python -m benchmarks step", origins)


def _ask_in_turn(
    names: list[str], config: Config, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    with ExitStack() as stack:
        recipe = Path(
            stack.enter_context(TemporaryDirectory(prefix="vit-benchmark-")), "recipe.yaml"
        )
        replace_file(recipe, dump_config(config))
        started = {
            who: stack.enter_context(_Contender(who, recipe, arguments.steps)) for who in names
        }
        seconds: dict[str, list[float]] = {who: [] for who in names}
        for _ in range(arguments.rounds):
            for who, contender in started.items():
                seconds[who].append(contender.ask())
    return seconds


class _Contender:
    """A process that runs some steps whenever it is asked to."""

    def __init__(self, who: str, recipe: Path, steps: int) -> None:
        self._who = who
        self._process: Any = subprocess.Popen(
            python_command("-m", "benchmarks.step_contenders", str(recipe), who, str(steps)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        try:
            self._wait_for("ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()

    def ask(self) -> float:
        """Runs the steps and returns the seconds that they took."""
        with suppress(BrokenPipeError):  # It has exited; its output says why.
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return float(self._wait_for("took "))

    def _wait_for(self, start: str) -> str:
        """Returns the rest of the next line with this start, and skips the output of libraries."""
        other: deque[str] = deque(maxlen=40)
        for line in self._process.stdout:
            if line.startswith(start):
                return str(line.removeprefix(start))
            other.append(line)
        raise PipelineError(f"{self._who} ended:\n{''.join(other)}")


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    first = rows[0]
    yield (
        f"{first['case']}, {first['precision']}, batch {first['batch']}; peak "
        f"{first['peak_flops_per_second'] / 1e9:,.0f} GFLOP/s"
    )
    for row in rows:
        rate, reached = row["images_per_second"], row["flops_per_second"]
        spread = f"({row['least']:,.1f} to {row['most']:,.1f})"
        yield (
            f"  {row['who']:<11}{rate:>9,.1f} images/s {spread:<22}"
            f"{reached / row['peak_flops_per_second']:>6.1%} of peak"
            + ("" if row["who"] == "ours" else f"   ours is {row['ours_is']:.2f}x")
        )
