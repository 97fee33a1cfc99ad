"""The tiny run, trained in this process: for tests of the loop and of what interrupts it."""

import json

import numpy as np

from pipeline.monitor.progress import ProgressDisplay
from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.training.data_record import record_start
from pipeline.training.description import start_facts
from pipeline.training.loop import fit
from pipeline.training.stop_request import StopRequest
from tests.rows import without_timings
from tests.training.experiments import tiny, tiny_config

STEPS = 20


class StopAt(StopRequest):
    """Asks to stop once it was looked at `looks` times."""

    def __init__(self, looks):
        super().__init__()
        self._looks = looks

    @property
    def reason(self):
        self._looks -= 1
        return "test" if self._looks < 0 else None


def train(folder, *settings, stop=None, display=None):
    """Trains the tiny run in `folder` to its end, or to the stop."""
    config = tiny_config(folder, *settings)
    run = RunFolder(config.run_dir)
    run.open(config, print)
    try:
        experiment = tiny(folder, *settings)
        record_start(run, experiment, start_facts(experiment, ["vit", "train", "tiny"]))
        display = display or ProgressDisplay(
            experiment.total_steps, experiment.steps_per_epoch, False
        )
        return fit(experiment, run, display, stop or StopRequest())
    finally:
        run.close()


def rows(folder):
    """Rows of metrics, without how fast it went, which is not part of what is trained."""
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [without_timings(json.loads(line)) for line in lines]


def store(folder):
    return CheckpointStore(folder / "run" / "checkpoints")


def assert_same_end(folder, other):
    """The last checkpoints of two runs are equal bit for bit, and so are their rows."""
    ours, theirs = (store(f).load(STEPS) for f in (folder, other))
    for name, arrays in theirs.tensors.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(ours.tensors[name][key], array, err_msg=key)
    assert rows(folder) == rows(other)
