"""A small finished run, trained once for all tests of this folder."""

import fcntl
import os

import pytest

from tests.jobs.commands import vit


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """Folder of a run of 60 steps on the digits, with averaged weights; not to be changed.

    The test process that needs it first trains it, and the others wait for it.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all test processes of this session
    folder = base / "digits_run"
    with (base / "digits_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "outcome.json").exists():
            # Each verb compiles the network again, so it has two blocks instead of four.
            done = vit(
                "train",
                "digits",
                "train.max_steps=60",
                "model.depth=2",
                "monitor.report=false",
                f"run.dir={folder}",
            )
            assert done.returncode == 0, done.stderr
    return folder
