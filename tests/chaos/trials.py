"""The command line of the trials that disturb elastic jobs: options, table, and exit code."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path


def parser(description, disturbances, steps):
    """A parser with the options of all trials, and these defaults."""
    options = argparse.ArgumentParser(description=description)
    add = options.add_argument
    add("--disturbances", type=int, default=disturbances, help="the least number of them")
    add("--minutes", type=float, default=float("inf"), help="no run begins after that time")
    add("--seed", type=int, default=0, help="of the random moments")
    add("--steps", type=int, default=steps, help="of each run")
    add("--results", type=Path, help="file for the table")
    add("--keep", action="store_true", help="keep run folders and logs")
    return options


def run(make, arguments):
    """Runs a trial, prints its table, and returns the exit code.

    Args:
      make: Returns the trial, given its folder and the arguments. It has `run()`, `describe()` and
        `failures`.
      arguments: Parsed options.
    """
    # So that what was started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A worker that hangs prints its stacks.
    os.environ["PYTHONFAULTHANDLER"] = "1"
    if find_spec("horovod") is None:
        sys.exit("Horovod is not built: make horovod")
    folder = Path(tempfile.mkdtemp(prefix="chaos-elastic-"))
    trial = make(folder, arguments)
    trial.run()
    table = trial.describe()
    print(table)
    if arguments.results:
        arguments.results.write_text(table)
    if trial.failures or arguments.keep:
        print(f"run folders and logs: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if trial.failures else 0
