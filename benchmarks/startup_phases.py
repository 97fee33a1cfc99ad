"""One start of `vit train`, timed phase by phase; a child process of the startup benchmark.

`python -m benchmarks.startup_phases ARGUMENTS OF VIT TRAIN` trains for one call of the step
graph, stops as it would after a signal, and prints one JSON object: seconds since the process was
started, and the most memory that it had, `peak_mb`.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pipeline.api.training
from jobs.cli import main
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json


def started_s() -> float:
    """When this process was started, seconds since 1970; Linux counts it in hundredths."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK")


def watch(stations: dict[str, float]) -> None:
    """Lets the import of TensorFlow and the first stretch of steps write down when they were."""
    start_s = started_s()

    def now_s() -> float:
        return time.time() - start_s

    def watched_import() -> None:
        stations["import_begins"] = now_s()
        import_tensorflow()
        stations["import_ends"] = now_s()
        from pipeline.training.experiment import Experiment

        train, make_iterator = Experiment.train, Experiment.train_iterator

        def watched_iterator(experiment: Experiment, start_step: int) -> Iterator[Any]:
            stations["input_graph_begins"] = now_s()
            iterator = make_iterator(experiment, start_step)
            stations["input_graph_ends"] = now_s()
            return iterator

        def watched_train(experiment: Experiment, *arguments: Any) -> Any:
            begins = now_s()
            stretch = train(experiment, *arguments)
            if "stretch_begins" not in stations:
                stations["stretch_begins"], stations["stretch_ends"] = begins, now_s()
                # The first stretch is one step, in which XLA compiles its loops; another step takes
                # what a step takes.
                stations["input"] = float(stretch.seconds[:, 1].sum())
                again = train(experiment, *arguments).seconds
                stations["steps"] = float((again[:, 0] - again[:, 1]).sum())
                os.kill(os.getpid(), signal.SIGTERM)
            return stretch

        setattr(Experiment, "train", watched_train)  # noqa: B010
        setattr(Experiment, "train_iterator", watched_iterator)  # noqa: B010

    setattr(pipeline.api.training, "import_tensorflow", watched_import)  # noqa: B010


if __name__ == "__main__":
    found: dict[str, float] = {}
    watch(found)
    code = main(["train", *sys.argv[1:]])
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(to_json(found), flush=True)
    os._exit(code)
