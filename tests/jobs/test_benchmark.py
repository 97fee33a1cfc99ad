"""`vit benchmark`: that it measures what it says; how fast anything is, no test says."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def benchmark(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", "benchmark", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.skipif(find_spec("horovod") is None, reason="Horovod is not built: make horovod")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two cores")
def test_scaling_measures_every_kind_with_and_without_the_reduction():
    done = benchmark(
        "scaling", "digits", "--workers=2", "--runtimes=horovod",
        "--batch=4", "--steps=1", "--rounds=1", "--repeats=1", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["kind"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert list(rows) == [
        "one process, 1 thread",
        "one process, 2 threads",
        "2 processes that know nothing of each other",
        "horovod, 2 workers",
    ]
    for kind, row in rows.items():
        figures = {name: value for name, value in row.items() if name != "kind"}
        assert min(figures.values()) > 0
        assert ("without_reduction" in row) == ("grouped" in row) == ("horovod" in kind)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--workers=0", "numbers of 1 to"), ("--workers=9999", "numbers of 1 to"),
     ("--runtimes=mpi", "--runtimes takes")],
)  # fmt: skip
def test_wrong_arguments_are_explained(argument, message):
    done = benchmark("scaling", argument)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_input_measures_each_stage_and_the_other_ways():
    done = benchmark(
        "input", "digits", "data.augment.rand_augment_layers=1", "data.cutmix_alpha=1",
        "--seconds=0.1", "--rounds=1", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rates = json.loads(done.stdout)
    assert list(rates) == [
        "order, fetch, decode, normalise",
        "and augment",
        "and mix",
        "Keras, image by image: crop, flip",
        "Keras, one draw a batch: crop, flip",
        "Keras, image by image: and RandAugment",
        "Keras, one draw a batch: and RandAugment",
        "NumPy: crop, flip",
    ]
    assert min(rates.values()) > 0
