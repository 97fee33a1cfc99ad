"""Training goes on after processes were lost: nothing is left out, and nothing is done twice.

The processes are two in name only: the second one does what the first one does. So a loss can come
at any exchange between them, thousands of times per minute. tests/parallel/test_elastic.py has real
processes.
"""

import json
import random
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import PeerLost, SettingsError, Stopped
from pipeline.runs.folder import RunFolder
from pipeline.runtimes.single import SingleRuntime
from pipeline.training.data_record import record_start
from pipeline.training.description import start_facts
from pipeline.training.journal import Journal
from pipeline.training.loop import fit
from pipeline.training.regrouping import regroup_while_preparing
from pipeline.training.stop_request import StopRequest
from tests.training import runs
from tests.training.experiments import tiny, tiny_config
from tests.training.runs import assert_same_end, rows, with_traced_graphs

# These tests are of the loop, and not of how its graphs are traced.
train = partial(runs.train, fresh=False)
EVERY_FIVE = ("checkpoint.every_steps=5", "checkpoint.every_epochs=null")


class LostError(Exception):
    """What a collective raises when a process is lost."""


class TwoInName(SingleRuntime):
    """A process and its double, in an elastic job.

    Args:
      is_lost: Called before each exchange: whether a process is lost now.
      changes: Called before each exchange: whether somebody waits to join.
    """

    is_elastic = True
    world_size = 2

    def __init__(self, is_lost=lambda: False, changes=lambda: False):
        super().__init__("CPU:0")
        self._is_lost, self._changes = is_lost, changes
        self.trains = False  # Only then processes are lost.
        self.groups = 1
        self.exchanges = 0

    @property
    def local_replicas(self):
        return 1

    @property
    def change_pending(self):
        return self._changes()

    def request_to_leave(self):
        self._changes = lambda: True

    def report_step(self, step):
        pass

    def leave(self):
        pass

    def regroup(self):
        self.groups += 1

    def all_gather(self, value):
        self.exchanges += 1
        if self.trains and self._is_lost():
            raise LostError
        double = value
        if isinstance(value, dict) and "leads" in value:
            double = value | {"leads": False}
        return [value, double]

    def all_reduce(self, value, how):
        self.all_gather(None)
        return np.asarray(value)

    def broadcast(self, variables, root=0):
        self.all_gather(None)

    def peer_error(self, error):
        return PeerLost("lost") if isinstance(error, LostError) else None


def train_with(folder, runtime, *settings, stop=None, **options):
    config = tiny_config(folder, *settings)
    run = RunFolder(config.run_dir)
    run.open(config, print)
    try:
        experiment = with_traced_graphs(config, runtime)
        record_start(run, experiment, start_facts(experiment, ["vit", "train", "tiny"]))
        runtime.trains = True
        return fit(experiment, run, Silent(), stop or StopRequest(), **options)
    finally:
        run.close()


class Silent:
    """A display that shows nothing and keeps the messages."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)

    def __getattr__(self, name):
        return lambda *arguments, **named: None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, *EVERY_FIVE)
    return folder


@pytest.mark.parametrize("seed", range(4))
def test_losses_at_random_exchanges_change_neither_weights_nor_rows(tmp_path, undisturbed, seed):
    draw = random.Random(seed)
    runtime = TwoInName(is_lost=lambda: draw.random() < 0.15)
    train_with(tmp_path, runtime, *EVERY_FIVE)
    assert runtime.groups > 5
    assert RunFolder(tmp_path / "run").worker_changes()
    assert_same_end(tmp_path, undisturbed)


def test_joins_at_random_moments_change_neither_weights_nor_rows(tmp_path, undisturbed):
    draw = random.Random(0)
    runtime = TwoInName(changes=lambda: draw.random() < 0.3)
    train_with(tmp_path, runtime, *EVERY_FIVE)
    assert runtime.groups > 3
    assert_same_end(tmp_path, undisturbed)


class LeaveAt(StopRequest):
    """Receives SIGTERM after it was looked at `looks` times."""

    def __init__(self, looks):
        super().__init__()
        self._looks = looks

    @property
    def signal_name(self):
        self._looks -= 1
        return "SIGTERM" if self._looks < 0 else None


def test_the_last_processes_that_are_asked_to_leave_stop_with_a_checkpoint(tmp_path, undisturbed):
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        train_with(tmp_path, TwoInName(), *EVERY_FIVE, stop=LeaveAt(4))
    train(tmp_path, *EVERY_FIVE)
    assert_same_end(tmp_path, undisturbed)


class Newcomer(TwoInName):
    """A process whose double trains already.

    Args:
      double: What the double says differently, when they meet.
      rank: Rank of this process in the group.
    """

    is_joining = True

    def __init__(self, double, rank=1):
        super().__init__()
        self._double, self._rank_in_group, self.has_left = double, rank, False

    def regroup(self):
        super().regroup()
        self.rank = self._rank_in_group

    def all_gather(self, value):
        gathered = super().all_gather(value)
        if isinstance(value, dict) and "leads" in value:
            gathered[1] |= {"state": {}, "was_member": True, "leads": True} | self._double
        return gathered

    def leave(self):
        self.has_left = True


@pytest.mark.parametrize(
    ("double", "rank", "message"),
    [
        ({"facts": "other"}, 1, "with other settings, code or data than the workers that train"),
        ({}, 8, "8 workers train already, and there are only 8 microbatches"),
    ],
)
def test_a_newcomer_that_differs_leaves_and_says_why(tmp_path, double, rank, message):
    runtime = Newcomer(double, rank)
    with pytest.raises(SettingsError, match=message):
        train_with(tmp_path, runtime, "train.microbatches=8", "data.global_batch_size=8")
    assert runtime.has_left


def test_an_elastic_job_needs_a_division_of_the_batch_that_stays(tmp_path):
    with pytest.raises(SettingsError, match="needs microbatches"):
        tiny(tmp_path, "train.deterministic=false", runtime=TwoInName())
    experiment = tiny(
        tmp_path, "train.deterministic=false", "train.microbatches=4", runtime=TwoInName()
    )
    assert experiment.gradient_scale is not None


@pytest.mark.parametrize("at", ["gradient", "bounds", "metrics"])
def test_an_interrupted_step_has_changed_nothing(tmp_path, at):
    """The second reduction of the third step fails; two steps are complete."""
    failing = SingleRuntime("CPU:0")
    whole = failing.sum_gradients

    def sum_gradients(gradients, name="gradient"):
        if name != at:
            return whole(gradients, name)
        with tf.control_dependencies([tf.debugging.Assert(step.value < 2, ["lost"])]):
            return [tf.identity(g) for g in gradients]

    failing.sum_gradients = sum_gradients
    experiment = tiny(tmp_path, runtime=failing)
    step = experiment.optimizer.iterations
    start = np.zeros(7)
    with pytest.raises(tf.errors.InvalidArgumentError):
        experiment.train(experiment.train_iterator(0), start, 5)

    other = tiny(tmp_path)
    result = other.train(other.train_iterator(0), start, 2)
    assert int(step.numpy()) == 2
    np.testing.assert_array_equal(experiment.completed.sums.numpy(), result.sums)
    for name, group in other.variables.items():
        for key, variable in group.items():
            ours = experiment.variables[name][key]
            np.testing.assert_array_equal(ours.numpy(), variable.numpy(), err_msg=key)


@pytest.mark.parametrize("lost", ["train", "validation"])
def test_a_new_chief_writes_the_row_that_the_last_one_did_not(tmp_path, lost):
    """The chief is lost between an exchange and the row that it writes then."""
    train(tmp_path, *EVERY_FIVE)
    whole = rows(tmp_path)
    last = next(row for row in reversed(whole) if row["split"] == lost)
    file = tmp_path / "run" / "metrics.jsonl"
    kept = whole[: whole.index(last)]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
    journal = Journal(tiny(tmp_path), RunFolder(tmp_path / "run"), Silent())
    journal.last_row = last | {"examples_per_second": 1.0}
    journal.take_over(last["step"], ())
    journal.flush()
    *others, written = rows(tmp_path)
    assert others == kept
    # The norms are those of the weights here, which are not trained.
    learned = {"weight_norm", "ema_distance"}
    assert {k: v for k, v in written.items() if k not in learned} == {
        k: v for k, v in last.items() if k not in learned
    }


def test_what_follows_the_training_is_repeated_after_a_loss(tmp_path, undisturbed):
    concluded = []

    def conclude(row):
        concluded.append(row["step"])
        if len(concluded) == 1:
            raise LostError

    runtime = TwoInName()
    train_with(tmp_path, runtime, *EVERY_FIVE, conclude=conclude)
    assert concluded == [20, 20]
    assert runtime.groups == 2
    assert_same_end(tmp_path, undisturbed)


class Preparing(TwoInName):
    """A process that prepares, and what another one says in each group."""

    def __init__(self, *others):
        super().__init__()
        self._others = list(others)

    def all_gather(self, value):
        other = self._others.pop(0)
        if isinstance(other, Exception):
            raise other
        return [other, value]


def test_processes_that_prepare_meet_again_after_losses_and_newcomers():
    newcomer = {"state": None, "was_member": False}
    runtime = Preparing(LostError(), newcomer, {"prepares": True})
    regroup_while_preparing(runtime)
    assert runtime.groups == 4


def test_a_process_that_is_behind_the_others_in_the_preparation_starts_again():
    with pytest.raises(PeerLost, match="the others train already"):
        regroup_while_preparing(Preparing({"state": None, "was_member": True}))
