"""Stop requests and kills with real processes: one agreed step, and an end as if undisturbed."""

import json
import re
import signal

import pytest

from tests.parallel.launches import Launches, needs_horovod
from tests.parallel.trainings import (
    SHORT_STEPS,
    Training,
    assert_same_end,
    horovodrun_command,
    leftovers,
    newest,
    read_rows,
    train_command,
    write_recipe,
)
from tests.runtimes.test_parity import differences

pytestmark = pytest.mark.processes

# Some seconds for the steps, in which to meet them.
SLOW = "slow=0.15"


@pytest.fixture(scope="module")
def undisturbed_two(tmp_path_factory):
    """Run folder of two ranks that nothing happened to."""
    yield from train_undisturbed(tmp_path_factory.mktemp("two"), slots=2)


@pytest.fixture(scope="module")
def undisturbed_one(tmp_path_factory):
    """Run folder of one process that nothing happened to."""
    yield from train_undisturbed(tmp_path_factory.mktemp("one"), slots=1)


def train_undisturbed(folder, slots):
    launches = Launches()
    try:
        start(launches, folder, slots=slots).succeed()
        yield folder / "run"
    finally:
        launches.clean_up()


def start(vit, folder, *settings, slots=1, tamper=None, horovodrun=False):
    """Starts the short run, or goes on with it."""
    words = write_recipe(folder), f"run.dir={folder / 'run'}", *settings
    if horovodrun:
        command = horovodrun_command(slots, train_command(*words, tamper=tamper))
    else:
        command = train_command(*words, slots=slots, tamper=tamper)
    return Training(vit, folder / "log", command)


def wait_for_step(training, folder, step):
    training.wait_for(lambda: any(row["step"] >= step for row in read_rows(folder / "run")))


def assert_stopped(training, folder, reason, code=75):
    """It ended with 75 at one step, which all ranks saved; returns the step."""
    ended, text = training.end()
    assert ended == code, text
    (step,) = re.findall(rf"stopped by {reason} at step (\d+), and saved. Run the same", text)
    assert newest(folder / "run").step == int(step)
    outcome = json.loads((folder / "run/outcome.json").read_text())
    assert (outcome["outcome"], outcome["exit_code"]) == ("stopped", 75)
    assert leftovers(folder / "run") == []
    # horovodrun itself ends by one.
    assert code == 1 or "Traceback" not in text
    return int(step)


@needs_horovod
@pytest.mark.parametrize("whom", ["rank 1", "all"])
def test_two_ranks_stop_at_one_step_whichever_is_asked(vit, tmp_path, undisturbed_two, whom):
    training = start(vit, tmp_path, slots=2, tamper=SLOW)
    wait_for_step(training, tmp_path, 10)
    if whom == "all":
        training.process.send_signal(signal.SIGTERM)  # vit launch passes it on
    else:
        training.signal_rank(1)
    step = assert_stopped(training, tmp_path, "SIGTERM")
    assert 10 <= step < SHORT_STEPS
    # It tells of each rank that ended with another code.
    assert "ended with exit code" not in training.text
    text = start(vit, tmp_path, slots=2).succeed()
    assert f"resuming from {tmp_path}/run/checkpoints/step-{step:08d}" in text
    assert_same_end(tmp_path / "run", undisturbed_two)


@needs_horovod
def test_a_rank_of_horovodrun_that_is_asked_stops_all(vit, tmp_path, undisturbed_two):
    training = start(vit, tmp_path, slots=2, tamper=SLOW, horovodrun=True)
    wait_for_step(training, tmp_path, 10)
    training.signal_rank(0)
    # horovodrun has one code for all that is not 0; how the run ended is in its folder.
    assert_stopped(training, tmp_path, "SIGTERM", code=1)
    assert "Exit code: 75" in training.text
    start(vit, tmp_path, slots=2, horovodrun=True).succeed()
    assert_same_end(tmp_path / "run", undisturbed_two)


@needs_horovod
def test_a_rank_that_is_killed_leaves_no_trace_in_the_end(vit, tmp_path, undisturbed_two):
    training = start(vit, tmp_path, slots=2, tamper=SLOW)
    wait_for_step(training, tmp_path, 15)
    training.signal_rank(0, signal.SIGKILL)  # the one that writes
    code, text = training.end()
    assert code == 137, text
    assert "rank 0 on localhost was killed by SIGKILL" in text
    text = start(vit, tmp_path, slots=2).succeed()
    assert "resuming from" in text
    assert_same_end(tmp_path / "run", undisturbed_two)


@pytest.mark.parametrize(
    ("tamper", "sign"),
    [
        ("slow=0", "a step"),  # the first, for which the graph is compiled
        ("slow_evaluation=0.5", "a batch of validation"),
        ("slow_evaluation=0.5", "a batch of test"),
        ("slow_save=2", "writes step-00000008"),
    ],
    ids=["compilation", "validation", "evaluation of the test split", "a checkpoint's writing"],
)
def test_a_request_stops_it_during(vit, tmp_path, undisturbed_one, tamper, sign):
    training = start(vit, tmp_path, tamper=tamper)
    training.wait_for(sign)
    training.process.send_signal(signal.SIGTERM)
    step = assert_stopped(training, tmp_path, "SIGTERM")
    # Nothing went on behind it: it is the step of that moment.
    expected = {"a step": [1], "a batch of validation": [20], "a batch of test": [40]}
    assert step in expected.get(sign, range(8, SHORT_STEPS))
    start(vit, tmp_path).succeed()
    assert_same_end(tmp_path / "run", undisturbed_one)


@needs_horovod
def test_a_run_goes_from_2_workers_to_1_to_2_devices_to_2_workers(vit, tmp_path, undisturbed_two):
    ways = [
        {"slots": 2, "runtime": "horovod"},
        {"slots": 1, "runtime": "single"},
        {"slots": 1, "runtime": "mirrored", "devices": 2},
        {"slots": 2, "runtime": "horovod"},
    ]
    for number, way in enumerate(ways):
        settings = (
            f"distribute.runtime={way['runtime']}",
            f"distribute.cpu_devices={way.get('devices', 1)}",
        )
        training = start(vit, tmp_path, *settings, slots=way["slots"], tamper=SLOW)
        if number == len(ways) - 1:
            text = training.succeed()
            break
        wait_for_step(training, tmp_path, 10 * number + 5)
        (tmp_path / "run/stop").touch()
        step = assert_stopped(training, tmp_path, "the file `stop`")
        assert 10 * number + 5 <= step < SHORT_STEPS
    assert f"resuming from {tmp_path}/run/checkpoints/step-{step:08d}" in text
    ours, theirs = newest(tmp_path / "run"), newest(undisturbed_two)
    assert ours.step == theirs.step == SHORT_STEPS
    for group in ("model", "average"):
        worst, whole = differences(ours.tensors[group], theirs.tensors[group])
        assert max(worst.values()) < 1e-5, max(worst, key=worst.get)
        assert whole < 1e-5
    rows, expected = read_rows(tmp_path / "run"), read_rows(undisturbed_two)
    for row, other in zip(rows, expected, strict=True):
        assert (row["step"], row["split"]) == (other["step"], other["split"])
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
