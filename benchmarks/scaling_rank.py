"""A child process of the scaling benchmark.

`python -m benchmarks.scaling_rank RECIPE RESULT ROUNDS STEPS CORES`: the chief writes the
measurements to RESULT, as JSON.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline.config import Config, load_config
from pipeline.runtimes.environment import find_place
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.storage.write import replace_file
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.runtimes.runtime import Runtime
    from pipeline.training.experiment import Experiment


class OtherReduction:
    """A runtime with another function to sum gradients."""

    def __init__(self, runtime: Runtime, sum_gradients: Callable[..., Any]) -> None:
        self._runtime = runtime
        self.sum_gradients = sum_gradients

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


def main(arguments: Sequence[str]) -> int:
    """Measures one configuration, in this process and those started with it."""
    recipe, result, rounds, steps, cores = arguments
    place = find_place(os.environ)
    if cores:
        # Before TensorFlow counts the available cores.
        own = [int(core) for core in cores.split(",")]
        os.sched_setaffinity(0, own if place.world_size == 1 else [own[place.rank]])
    config = load_config(recipe)
    import_tensorflow()
    from pipeline.runtimes.kinds import start

    with (
        closing(start(config.distribute, deterministic=config.train.deterministic)) as runtime,
        runtime.noticing_lost_peers(),
    ):
        measured = measure(config, runtime, int(rounds), int(steps))
        if runtime.is_chief:
            replace_file(Path(result), to_json(measured))
        runtime.barrier()
    return 0


def measure(config: Config, runtime: Runtime, rounds: int, steps: int) -> dict[str, float]:
    """Measures images/s for each way to reduce gradients, and the time of a reduction alone.

    Returns:
      images_per_second; for several processes also without_reduction, reduction_ms, and grouped if
      the runtime has such an operation.
    """
    from pipeline.training.assembly import build
    from pipeline.training.step import make_step, make_train_steps, make_update

    experiment = build(config, runtime)
    experiment.broadcast()
    reductions: dict[str, Callable[..., Any]] = {"images_per_second": runtime.sum_gradients}
    if runtime.world_size > 1:
        reductions["without_reduction"] = list
    if hasattr(runtime, "sum_gradients_at_once"):
        reductions["grouped"] = runtime.sum_gradients_at_once
    update = make_update(
        config, runtime, experiment.optimizer, experiment.schedule, experiment.loss_scale
    )
    gradients_of, optimizer = experiment.gradients.gradients_of, experiment.optimizer
    train_steps = {}
    for name, function in reductions.items():
        reduced: Any = OtherReduction(runtime, function)
        step = make_step(reduced, gradients_of, optimizer, update)
        train_steps[name] = make_train_steps(
            config, step, optimizer, experiment.loss_scale, experiment.completed
        )
    seconds = _time_in_turn(experiment, train_steps, rounds, steps)
    batch = config.data.global_batch_size
    rates = {name: steps * batch / median(times) for name, times in seconds.items()}
    if runtime.world_size > 1:
        rates["reduction_ms"] = _time_reduction(experiment, rounds * steps)
    return rates


def _time_in_turn(
    experiment: Experiment, functions: dict[str, Any], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Returns the seconds of `steps` steps in the slowest process, per round and function."""
    import tensorflow as tf

    from pipeline.training.step import empty_train_sums

    runtime, iterator = experiment.runtime, experiment.train_iterator(0)
    sums = tf.constant(empty_train_sums())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            runtime.barrier()
            start_s = time.perf_counter()
            function(iterator, sums, tf.constant(0), tf.constant(steps if number else 1))[0].numpy()
            slowest_s = max(runtime.all_gather(time.perf_counter() - start_s))
            if number:  # The first round builds the graph.
                seconds[name].append(slowest_s)
    return seconds


def different_tensors(shapes: Sequence[Any], start: tf.Tensor) -> list[tf.Tensor]:
    """Returns one tensor of each shape, filled with start, start + 1, ...

    The values differ because TensorFlow merges equal operations on equal inputs: of 152 tensors of
    zeros it reduced a dozen, one per shape, and a twelfth of the bytes.
    """
    import tensorflow as tf

    return [tf.fill(shape, start + number) for number, shape in enumerate(shapes)]


def _time_reduction(experiment: Experiment, times: int) -> float:
    """Returns the milliseconds to reduce tensors with the shapes of all gradients."""
    import tensorflow as tf

    runtime = experiment.runtime
    shapes = [v.shape for v in experiment.model.trainable_variables]

    @tf.function
    def reduce(count: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0.0)
        for _ in tf.range(count):

            def once(total: tf.Tensor) -> tf.Tensor:
                # Each round waits for the one before, like training steps.
                summed = runtime.sum_gradients(different_tensors(shapes, total))
                return tf.minimum(tf.add_n([tf.reshape(v, [-1])[0] for v in summed]), 1.0)

            total = runtime.run(once, total)
        return total

    reduce(tf.constant(1)).numpy()
    runtime.barrier()
    start_s = time.perf_counter()
    reduce(tf.constant(times)).numpy()
    return (time.perf_counter() - start_s) / times * 1e3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
