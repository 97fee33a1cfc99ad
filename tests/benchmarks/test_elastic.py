"""What `python -m benchmarks elastic` reads of a job."""

import argparse

import pytest

from benchmarks import elastic
from pipeline.errors import SettingsError


def test_the_newest_whole_row_is_the_step(tmp_path):
    job = object.__new__(elastic._Job)
    job._metrics = tmp_path / "metrics.jsonl"
    assert job.step() == 0
    job._metrics.write_text('{"step":7,"split":"train"}\n{"step":12,"split":"train"}\n')
    assert job.step() == 12


def test_one_worker_cannot_lose_another():
    with pytest.raises(SettingsError, match="--workers must be at least 2"):
        elastic.run(argparse.Namespace(workers=1, kills=1, settings=[], recipe="digits"))


def test_the_median_and_the_worst_are_printed(capsys):
    losses = [elastic.Loss(seconds, steps) for seconds, steps in ((0.2, 0), (0.4, 2), (3.0, 4))]
    elastic._print(argparse.Namespace(workers=3, json=False), "elastic", losses)
    assert "lost 0.40 s (median), 3.00 s (worst); 2 steps repeated" in capsys.readouterr().out
