"""A small finished run, trained once a test process."""

import pytest

from tests.jobs.commands import vit


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """Folder of a run of 60 steps on the digits, with averaged weights."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    done = vit("train", "digits", "train.max_steps=60", "monitor.report=false", f"run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder
