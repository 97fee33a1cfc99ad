"""Top-5 accuracy, which is 100 % among five classes or fewer, is in files and not in output."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.evaluate import _line
from jobs.train import _print_result
from pipeline.runs.folder import RunFolder
from tests.training.runs import train


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True)])
def test_curves_result_and_evaluation_show_it_only_where_it_says_something(
    tmp_path, capsys, classes, shown
):
    train(tmp_path, f"data.num_classes={classes}", "train.max_steps=2", "train.log_every_steps=1")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all("top_5_accuracy" in row for row in rows)
    for split in ("train", "validation"):
        board = EventAccumulator(str(tmp_path / "run/tensorboard" / split)).Reload()
        tags = board.Tags()["tensors"]
        assert "accuracy" in tags
        assert ("top_5_accuracy" in tags) == shown
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run/dataset.json").write_text(json.dumps({"classes": ["x"] * classes}))
    capsys.readouterr()
    _print_result(folder, rows[-1])
    assert ("top-5" in capsys.readouterr().out) == shown
    assert ("top-5" in _line({**rows[-1], "examples": 3}, classes)) == shown
