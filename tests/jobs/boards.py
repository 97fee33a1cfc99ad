"""Run folders with curves, and TensorBoard on them, without training."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import Config, dump_config
from pipeline.monitor.tensorboard import TensorBoardWriter

ROOT = Path(__file__).parent.parent.parent


def write_run(folder, shift=0.0):
    """A run folder with curves: loss 1/step, and accuracy 1 - 1/step, of two splits."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(Config()))
    writer = TensorBoardWriter(folder / "tensorboard", 0, print)
    for step in range(10, 110, 10):
        for split, factor in (("train", 1.0), ("validation", 1.2)):
            loss = factor / step + shift
            writer.scalars(split, step, {"loss": loss, "accuracy": 1 - factor / step})
    return folder


@contextmanager
def board(*arguments, cwd=ROOT):
    """Starts `vit board`, gives (process, address) once it says that it answers, and ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "board", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("TensorBoard  http://"), process.communicate()
        assert process.stdout.readline() == "Press Ctrl-C to stop it\n"
        yield process, line.split()[1]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def wait_until(is_so, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)
