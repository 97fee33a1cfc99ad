"""`vit benchmark step`"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

from jobs.benchmark import check_counts
from jobs.tensorflow_start import import_tensorflow
from pipeline.config import Config, parse_config
from pipeline.errors import SettingsError

_EPILOG = """\
Images a second of training steps on random images that lie in memory: forward and backward pass,
clipping where the recipe has it, and the optimizer. The contenders take turns in one process, after
a turn each that makes their graph; figures are medians, with the smallest and the largest.

  ours       this pipeline's step
  example    the Keras example's layers with Keras's AdamW, by model.fit (case keras_example)
  keras-hub  keras_hub.models.ViTImageClassifier of the same sizes by model.fit, where keras-hub is
             installed (not case keras_example: its heads are longer than keras-hub's can be)

"of peak" is the arithmetic of the network (matrix products alone) against a product of two large
matrices on the same device, measured in the same run: what the machine could do at most.
"""


class Case(NamedTuple):
    """A network to measure.

    Attributes:
      variant: Of `model.variant`.
      image_size: Pixels a side.
      batch: Images a step on a CPU; --batch replaces it.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("--cases", default="keras_example,cifar,S/16", help=", ".join(CASES))
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--batch", type=int, help="images a step (default: by case)")
    parser.add_argument("--steps", type=int, default=2, help="in each timing (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="timings (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Measures each case in each precision."""
    cases, precisions = arguments.cases.split(","), arguments.precisions.split(",")
    if unknown := [name for name in cases if name not in CASES]:
        raise SettingsError(f"--cases takes {', '.join(CASES)}. Received: {unknown[0]}")
    if unknown := [name for name in precisions if name not in _PRECISIONS]:
        raise SettingsError(f"--precisions takes {', '.join(_PRECISIONS)}. Received: {unknown[0]}")
    check_counts(arguments, batch=1, steps=1, rounds=1)
    import_tensorflow()
    for name in cases:
        for precision in precisions:
            rows = _measure(CASES[name], name, precision, arguments)
            lines = map(json.dumps, rows) if arguments.json else _table(rows)
            print("\n".join(lines), flush=True)
    return 0


def _measure(
    case: Case, name: str, precision: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    from jobs.benchmark.step_contenders import contenders, flops_of, peak_flops_per_s

    batch = arguments.batch or case.batch
    config = _config(case, precision, batch)
    steps = {who: make(arguments.steps) for who, make in contenders(config, name).items()}
    seconds = _time_in_turn(steps, arguments.rounds)
    peak, flops = peak_flops_per_s(config.train.precision), flops_of(config)
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


def _config(case: Case, precision: str, batch: int) -> Config:
    tree: dict[str, Any] = {
        "data": {"source": "synthetic", "image_size": case.image_size, "resize": "none",
                 "num_classes": case.num_classes, "num_examples": 2 * batch,
                 "global_batch_size": batch},
        "model": {"variant": case.variant},
        "optim": {"weight_decay": 0.1, "lr_scaling": "none"},
        "train": {"precision": _PRECISIONS[precision]},
        "distribute": {"runtime": "single"},
    }  # fmt: skip
    return parse_config(tree, "vit benchmark step")


def _time_in_turn(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {who: [] for who in steps}
    for number in range(rounds + 1):
        for who, function in steps.items():
            took_s = function()
            if number:  # the first makes the graph
                seconds[who].append(took_s)
    return seconds


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
