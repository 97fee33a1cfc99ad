"""The tiny run, trained in this process: for tests of the loop and of what interrupts it."""

import copy
import json

import numpy as np
import tensorflow as tf

from pipeline.monitor.progress import ProgressDisplay
from pipeline.runs.checkpoints.store import CheckpointStore
from pipeline.runs.folder import RunFolder
from pipeline.runtimes.single import SingleRuntime
from pipeline.training import data_opening
from pipeline.training.assembly import build
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


_GRAPHS = ("variables", "_train_steps", "_eval_steps", "_all_finite", "_swap_averages")
# Settings of the loop, which the graphs do not depend on.
_OF_THE_LOOP = {
    "run": True,
    "checkpoint": True,
    "monitor": True,
    "model": {"pretrained"},
    "train": {"callbacks", "early_stopping", "evaluate_every_epochs", "evaluate_every_steps",
              "log_every_steps", "max_rollbacks"},
}  # fmt: skip
_traced = {}  # experiments by what they are made of, with the snapshot of their start


def with_traced_graphs(config, runtime=None):
    """A deterministic experiment whose graphs were traced by the first with the same settings.

    Tracing takes most of the time of a tiny run. All variables have their initial values again, so
    that what a run does not restore from a checkpoint is not there.

    Args:
      runtime: Its part in the graphs must be that of every other one of its class.
    """
    runtime = runtime or SingleRuntime("CPU:0")
    tf.config.experimental.enable_op_determinism()  # as `build` does
    settings = config.model_dump_json(exclude=_OF_THE_LOOP)
    key = settings, type(runtime), data_opening.open_source  # which tests replace
    if key not in _traced:
        if len(_traced) == 8:
            del _traced[next(iter(_traced))]
        made = build(config, runtime)
        for name in _GRAPHS:
            getattr(made, name)
        _traced[key] = made, made.snapshot(0, {})
    made, start = _traced[key]
    experiment = copy.copy(made)
    experiment.config, experiment.runtime = config, runtime
    experiment.restore(start)
    experiment.weights_step = 0
    return experiment


def train(folder, *settings, stop=None, display=None, fresh=True):
    """Trains the tiny run in `folder` to its end, or to the stop.

    Args:
      fresh: False to use the graphs of an earlier training, if it is deterministic.
    """
    config = tiny_config(folder, *settings)
    run = RunFolder(config.run_dir)
    run.open(config, print)
    fresh = fresh or not config.train.deterministic
    try:
        experiment = tiny(folder, *settings) if fresh else with_traced_graphs(config)
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
