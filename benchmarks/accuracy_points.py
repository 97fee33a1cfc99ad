"""A child process of the accuracy benchmark: test accuracy of the checkpoints of a finished run.

`python -m benchmarks.accuracy_points RUN START` prints a JSON object for each checkpoint, with the
seconds from START (since 1970) until it was saved, and one with the step of the best weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.runs.folder import RunFolder
from pipeline.runtimes.tensorflow_start import import_tensorflow
from pipeline.strict_json import to_json


def main() -> None:
    """Evaluates the checkpoints of the run that the arguments name."""
    folder, start_s = RunFolder(Path(sys.argv[1])), float(sys.argv[2])
    import_tensorflow()
    from pipeline.runs.checkpoints.store import CheckpointStore
    from pipeline.runtimes.kinds import start
    from pipeline.training.assembly import build
    from pipeline.training.best_weights import best_snapshot

    store = CheckpointStore(folder.checkpoints)
    config = folder.config()
    experiment = build(config, start(config.distribute, deterministic=config.train.deterministic))
    for step in store.steps():
        experiment.restore(store.load(step))
        seconds = (store.path(step) / "manifest.json").stat().st_mtime - start_s
        print(to_json({"kind": "point", "step": step, "seconds": seconds}
                         | experiment.evaluate("test")))  # fmt: skip
    print(to_json({"kind": "best", "step": best_snapshot(folder).step}))


if __name__ == "__main__":
    main()
