"""A small finished run, trained once a test process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """Folder of a run of 60 steps on the digits, with averaged weights."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    command = [sys.executable, "-m", "jobs.cli", "train", "digits", f"run.dir={folder}"]
    done = subprocess.run(
        [*command, "train.max_steps=60", "monitor.report=false"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True, capture_output=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder
