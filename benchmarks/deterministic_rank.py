"""A child process of the deterministic benchmark.

`python -m benchmarks.deterministic_rank RECIPE SOCKET STEPS CORES`: the chief connects to SOCKET,
writes what a step sends as a line of JSON. For each line that it then receives, it trains STEPS
steps and writes the seconds in the slowest process, and the processor time of all.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from pipeline.config import load_config
from pipeline.runtimes.environment import find_place
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.runtimes.runtime import Runtime


def main(arguments: Sequence[str]) -> int:
    """Trains steps when it is asked to, together with the processes that were started with it."""
    recipe, address, steps, cores = arguments
    place = find_place(os.environ)
    # Before TensorFlow counts the available cores.
    own = [int(core) for core in cores.split(",")]
    os.sched_setaffinity(0, own if place.world_size == 1 else [own[place.rank]])
    config = load_config(recipe)
    import_tensorflow()
    from pipeline.runtimes.kinds import start
    from pipeline.training.assembly import build
    from pipeline.training.step import empty_train_sums

    with ExitStack() as stack:
        runtime = start(config.distribute, deterministic=config.train.deterministic)
        stack.enter_context(closing(runtime))
        stack.enter_context(runtime.noticing_lost_peers())
        sent = count_bytes(runtime)
        experiment = build(config, runtime)
        experiment.broadcast()
        iterator = experiment.train_iterator(0)
        # The first step builds the graph. The next ones find the exponents of exact sums.
        experiment.train(iterator, empty_train_sums(), 3)
        values = sum(v.value.shape.num_elements() for v in experiment.model.trainable_variables)
        ask = stack.enter_context(_connect(address)) if runtime.is_chief else None
        facts = {"values": values, "bytes": sum(sent.values())}
        for _ in _requests(runtime, ask, to_json(facts)):
            runtime.barrier()
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            experiment.train(iterator, empty_train_sums(), int(steps))
            slowest_s = max(runtime.all_gather(time.perf_counter() - start_s))
            cpu_s = sum(runtime.all_gather(time.process_time() - start_cpu_s))
            if ask is not None:
                print(to_json([slowest_s, cpu_s]), file=ask, flush=True)
    return 0


def count_bytes(runtime: Runtime) -> dict[str, int]:
    """Makes a runtime count the bytes of the tensors that a step sums over all replicas.

    Returns:
      Bytes by the name of the sum. They are known when the graph of a step has been built.
    """
    counted: dict[str, int] = {}
    sum_gradients: Callable[..., list[tf.Tensor]] = runtime.sum_gradients

    def counting(gradients: Sequence[tf.Tensor], name: str = "gradient") -> list[tf.Tensor]:
        counted[name] = sum(g.shape.num_elements() * g.dtype.size for g in gradients)
        return sum_gradients(gradients, name)

    runtime.sum_gradients = counting  # type: ignore[method-assign]
    return counted


def _connect(address: str) -> Any:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    return connection.makefile("rw")


def _requests(runtime: Runtime, ask: Any, first: str) -> Iterator[None]:
    """Yields in all processes for each line that the chief receives."""
    if ask is not None:
        print(first, file=ask, flush=True)
    while runtime.broadcast_value(ask is not None and bool(ask.readline())):
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
