"""`python -m benchmarks loop`"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing, redirect_stdout
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from benchmarks.command import check_counts
from pipeline.config import Config, load_config
from pipeline.errors import PipelineError, SettingsError
from pipeline.recipes import find_recipe
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    from pipeline.training.experiment import Experiment

_EPILOG = """\
Compares the training loop of `vit train` with a minimal loop. Ours writes metrics, TensorBoard,
progress bars and three checkpoints: one that is still being written at the first step, one half way
and one at the end. The minimal loop is one graph that computes the same gradients and updates for
the same batches, and does nothing else. Both start with a new iterator, created before timing
starts. They take turns in one process, and every second pair starts with the minimal loop. The
share is the median of the pairs. Before the timings, both train once from the same weights and must
end with the same weights: "differ by" is the relative distance.

One-time costs of a run's first minute are not included: the graph of the input stage (see
`python -m benchmarks startup`), pictures, and the measurement of the machine's peak speed.
Evaluations are not included either, because the minimal loop has none.
"""

_MOST_DIFFERENT = (
    0.05  # Above rounding in bfloat16 as amplified by Adam; below the effect of one more step.
)
_SETTINGS = (
    "data.source=synthetic",
    "data.num_examples=4096",
    "distribute.runtime=single",
    "monitor.pictures=false",
    "monitor.peak_tflops=1",
    "train.evaluate_every_epochs=null",
    "checkpoint.every_epochs=null",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's arguments."""
    parser.add_argument("recipe", nargs="?", default="cifar10", help="recipe (default: cifar10)")
    parser.add_argument("settings", nargs="*", default=[], metavar="section.key=value")
    parser.add_argument("--steps", type=int, default=100, help="steps per timing (default: 100)")
    parser.add_argument(
        "--rounds", type=int, default=4, help="number of pairs of timings (default: 4)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Times both loops and prints a line."""
    check_counts(arguments, steps=2, rounds=1)
    lengths = (
        f"train.max_steps={arguments.steps}",
        f"checkpoint.every_steps={arguments.steps // 2}",
    )
    config = load_config(find_recipe(arguments.recipe), [*_SETTINGS, *lengths, *arguments.settings])
    if config.train.precision == "mixed_float16":
        raise SettingsError("the minimal loop has no loss scale: use mixed_bfloat16 or float32")
    import_tensorflow()
    found = {"recipe": arguments.recipe} | _measure(config, arguments.rounds)
    print(to_json(found) if arguments.json else _line(found))
    return 0


def _measure(config: Config, rounds: int) -> dict[str, Any]:
    from pipeline.runtimes.kinds import start
    from pipeline.training.assembly import build

    experiment = build(config, start(config.distribute, deterministic=config.train.deterministic))
    # If there is a validation split, the last step is evaluated whatever the settings say.
    del experiment.source.splits["validation"]
    loops = {"ours": lambda: _time_ours(experiment), "bare": _bare(experiment)}
    differ_by = _compare(experiment, loops.values())
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    order = list(loops)
    for _ in range(rounds):
        for name in order:
            seconds[name].append(loops[name]())
        order.reverse()  # A steady drift of the machine's speed then favors neither.
    images = experiment.total_steps * config.data.global_batch_size
    shares = [bare / ours for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    return {
        "images_per_second": images / median(seconds["ours"]),
        "bare_images_per_second": images / median(seconds["bare"]),
        "share": median(shares),
        "least": min(shares),
        "most": max(shares),
        "differ_by": differ_by,
    }


def _compare(experiment: Experiment, loops: Iterable[Callable[[], float]]) -> float:
    """Returns the relative distance of the final weights of both loops; also builds their graphs.

    Raises:
      PipelineError: The loops do not train the same weights.
    """
    before, ends = experiment.snapshot(0, {}), []
    for loop in loops:
        experiment.restore(before)
        loop()
        after = experiment.snapshot(0, {}).tensors["model"]
        ends.append(np.concatenate([np.ravel(after[name]) for name in sorted(after)]))
    start = np.concatenate([np.ravel(before.tensors["model"][name]) for name in sorted(after)])
    way = np.linalg.norm(ends[0] - start)
    differ_by = float(np.linalg.norm(ends[0] - ends[1]) / way)
    if not differ_by < _MOST_DIFFERENT:
        raise PipelineError(
            f"the loops do not train the same weights: the relative distance is {differ_by:.2g}"
        )
    return differ_by


def _time_ours(experiment: Experiment) -> float:
    """Returns the seconds from the first step of our loop to the last, in a new run folder."""
    # Without a terminal, rich would not draw progress bars.
    os.environ["FORCE_COLOR"] = "1"
    from pipeline.monitor.progress import ProgressDisplay
    from pipeline.runs.folder import RunFolder
    from pipeline.training.loop import Loop
    from pipeline.training.stop_request import StopRequest

    with (
        tempfile.TemporaryDirectory(prefix="vit-loop-") as path,
        closing(RunFolder(Path(path) / "run")) as folder,
        redirect_stdout(io.StringIO()),
    ):
        folder.open(experiment.config, lambda _: None)
        display = ProgressDisplay(experiment.total_steps, experiment.steps_per_epoch)
        loop = Loop(experiment, folder, display, StopRequest())
        iterator = experiment.train_iterator(0)
        with (
            closing(display),
            closing(loop),
            patch.object(experiment, "train_iterator", lambda _: iterator),
        ):
            loop.resume()
            start_s = time.perf_counter()
            loop.train()
            return time.perf_counter() - start_s


def _bare(experiment: Experiment) -> Callable[[], float]:
    import tensorflow as tf

    from pipeline.optim.optimizer import clip_scale, global_norm

    config, optimizer = experiment.config, experiment.optimizer
    gradients_of = experiment.gradients.gradients_of

    @tf.function
    def train(iterator: Any, steps: tf.Tensor) -> None:
        for _ in tf.range(steps):
            step = optimizer.iterations.value
            _, gradients = gradients_of(next(iterator), step, tf.constant(0))
            optimizer.apply(
                gradients,
                learning_rate=experiment.schedule(step),
                applied=optimizer.applied_updates.value,
                update=experiment.runtime.update,
                scale=clip_scale(global_norm(gradients), config.optim.clip_norm),
            )
            optimizer.iterations.assign_add(1)
            optimizer.applied_updates.assign_add(1)

    def do() -> float:
        iterator = experiment.train_iterator(0)
        start_s = time.perf_counter()
        train(iterator, tf.constant(experiment.total_steps))
        experiment.optimizer.iterations.value.numpy()
        return time.perf_counter() - start_s

    return do


def _line(found: dict[str, Any]) -> str:
    return (
        f"{found['recipe']}: {found['images_per_second']:,.1f} images/s, minimal loop "
        f"{found['bare_images_per_second']:,.1f}: ours reaches {found['share']:.1%} of it "
        f"({found['least']:.1%} to {found['most']:.1%}); weights differ by {found['differ_by']:.1e}"
    )
