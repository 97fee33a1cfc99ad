"""The worked examples of docs/extending.md train the same weights on one process and on two."""

import pytest

from pipeline.training.parity import TOLERANCE, compare_weights
from tests.parallel.launches import needs_horovod
from tests.parallel.trainings import Training, newest, read_rows, train_command, write_recipe
from tests.plugin_examples import SETTINGS, write_examples

pytestmark = [needs_horovod, pytest.mark.processes]


def test_all_plugins_train_the_same_on_one_process_and_on_two_ranks(vit, tmp_path):
    write_examples(tmp_path)
    recipe = write_recipe(tmp_path)
    ends = {}
    for slots in (1, 2):
        run = tmp_path / f"run-{slots}"
        words = train_command(recipe, f"run.dir={run}", *SETTINGS, slots=slots)
        Training(vit, tmp_path / f"log-{slots}", words, tmp_path).succeed()
        ends[slots] = newest(run), read_rows(run)[-1]
    (one, row), (two, other_row) = ends[1], ends[2]
    assert one.step == two.step == 40
    for group in ("model", "average"):
        tensor, worst, _ = compare_weights(two.tensors[group], one.tensors[group])
        assert worst <= TOLERANCE, tensor
    assert row["split"] == other_row["split"] == "test"
    assert row["accuracy"] == other_row["accuracy"]


def test_a_plugin_that_lacks_something_ends_all_ranks_with_one_message(vit, tmp_path):
    (tmp_path / "my_loss.py").write_text("def mean(target, logits):\n    return 1.0\n")
    words = train_command(
        write_recipe(tmp_path), f"run.dir={tmp_path / 'run'}", "optim.loss=my_loss:mean", slots=2
    )
    code, text = Training(vit, tmp_path / "log", words, tmp_path).end()
    assert code == 2
    said = [line for line in text.splitlines() if line.startswith("vit train: rank") and
            "must return the loss of each example" in line]  # fmt: skip
    assert len(said) == 1, text
