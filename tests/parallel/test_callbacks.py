"""Callbacks run on rank 0 only; what comes of them reaches all ranks."""

import json
import re

import pytest

from tests.parallel.launches import needs_horovod
from tests.parallel.trainings import Training, newest, read_rows, train_command, write_recipe

pytestmark = needs_horovod
MODULE = "tests.parallel.callbacks_of_tests"


def start(vit, folder, callback, *settings):
    words = write_recipe(folder), f"run.dir={folder / 'run'}", f"train.callbacks={callback}"
    return Training(vit, folder / "log", train_command(*words, *settings, slots=2))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("callback", "code", "message"),
    [
        (f"{MODULE}:FailsAtItsSecondEpoch", 1, "raised an error in on_epoch_end"),
        (f"{MODULE}:FailsAtTheEnd", 1, "raised an error in on_train_end"),
        (f"{MODULE}:HalvesTheHead", 1, "changed the model's weights in on_epoch_end"),
        (f"{MODULE}:missing", 2, "has no function or class missing"),
    ],
)
def test_an_error_in_a_callback_ends_all_ranks_with_one_message(
    vit, tmp_path, callback, code, message
):
    # A rank that is left waiting hangs longer than the test waits; a busy machine does not.
    settings = ["train.hang_timeout_s=200", "train.evaluate_every_steps=1000"]
    got, text = start(vit, tmp_path, callback, *settings).end()
    assert got == code, text
    said = [line for line in text.splitlines() if re.match(r"vit train: rank \d on ", line)]
    assert len(said) == 1, text  # the chief says it; the launcher quotes its last lines
    assert message in said[0]
    if "raised" in message:
        assert "the callback is broken" in text
    if code == 1:
        assert json.loads((tmp_path / "run/outcome.json").read_text())["outcome"] == "failed"
    assert "lost" not in text  # no rank takes the others' end for a loss
    assert "hangs" not in text


@pytest.mark.processes
def test_a_callback_stops_all_ranks(vit, tmp_path):
    text = start(vit, tmp_path, f"{MODULE}:StopsAfterTwoEpochs").succeed()
    # 90 examples in batches of 12: the second epoch ends at step 15.
    assert "stopping early at step 15: a callback" in text
    assert text.count("epoch 1 ended") == 1
    assert newest(tmp_path / "run").step == 15
    assert read_rows(tmp_path / "run")[-1]["split"] == "test"
