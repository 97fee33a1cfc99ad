"""What the terminal shows, on a real pseudo-terminal and without one."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.monitor.progress import _EpochAndRun

ROOT = Path(__file__).parent.parent.parent
SHOW = """
import time
from pipeline.monitor.progress import ProgressDisplay
display = ProgressDisplay(540, 13.5)
row = {"step": 60, "epoch": 4.4, "loss": 1.25, "accuracy": 0.5, "top_5_accuracy": 0.9}
display.evaluated(row | {"split": "validation"}, best=True)
display.trained(row | {"step": 120, "examples_per_second": 2000.0, "learning_rate": 1e-3})
time.sleep(1.2)
display.finished([row | {"split": "train"}, row | {"split": "test", "weights_of_step": 60}])
"""
STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_terminal(columns, **variables):
    """All that is written to a terminal of so many columns."""
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"} | variables
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW], cwd=ROOT, env=environment, stdout=follower, stderr=follower
    )
    os.close(follower)
    pieces = []
    try:
        while piece := os.read(leader, 65536):
            pieces.append(piece)
    except OSError:
        pass  # how Linux says that the other side is closed
    os.close(leader)
    assert process.wait(20) == 0
    return b"".join(pieces).decode()


def test_a_wide_terminal_shows_a_bar_for_the_epoch_and_one_for_the_run_and_a_table_at_the_end():
    text = STYLE.sub("", on_terminal(140))
    # 120 steps are eight epochs of 13.5 steps and 12 steps, of 540.
    told = "loss 1.2500  accuracy 50.0%  2,000 images/s  lr 1.00e-03"
    drawn = re.findall(rf"epoch 9/40 [━╸╺]+ +89% \S+ {told}", text)
    assert len(drawn) >= 2  # while it waited, and at the end
    assert re.search(r"run +[━╸╺]+ +22% \S+ step 120/540  validation 50.0%", text)
    table = text[text.index("of step") :]
    assert re.search(r"train +50\.00% +90\.00% +1\.2500 +60", table)
    assert re.search(r"test +50\.00% +90\.00% +1\.2500 +60", table)


def test_on_a_narrow_terminal_each_bar_has_one_line():
    lines = re.split(r"[\r\n]", STYLE.sub("", on_terminal(60)))
    bars = [line for line in lines if re.match(r"(epoch \d+/40|run) ", line)]
    assert all(len(bar) <= 60 for bar in bars)
    assert re.search(r"epoch 9/40 .* 89% \S+ loss 1.250 50%", bars[-2])
    assert re.search(r"run .* 22% \S+ validation 50.0%", bars[-1])


def test_the_bar_of_an_epoch_is_full_at_its_last_step_and_begins_anew_after_it():
    console = Console(force_terminal=True, width=140, file=io.StringIO())
    bars = _EpochAndRun(console, total_steps=25, steps_per_epoch=10.0)
    shown = {}
    for step in range(26):
        bars.advance(step)
        epoch, run = bars._bar.tasks
        shown[step] = (epoch.description, epoch.completed, epoch.total, run.completed)
    bars.close()
    assert shown[0] == ("epoch 1/3", 0, 10, 0)
    assert shown[10] == ("epoch 1/3", 10, 10, 10)
    assert shown[11] == ("epoch 2/3", 1, 10, 11)
    assert shown[25] == ("epoch 3/3", 5, 5, 25)


def test_without_colour_where_that_is_asked_for():
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert colour.search(on_terminal(140))
    assert not colour.search(on_terminal(140, NO_COLOR="1"))


@pytest.mark.parametrize("columns", ["40", "200"])
def test_elsewhere_it_writes_plain_lines_that_are_not_wrapped(columns):
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT, env=os.environ | {"COLUMNS": columns}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "\x1b" not in done.stdout
    clock = r"\d\d:\d\d:\d\d"
    first, second, *_ = done.stdout.splitlines()
    assert re.fullmatch(
        rf"{clock}  step  60/540  epoch 4\.4  validation: loss 1\.2500  accuracy 50\.00%  "
        r"top-5 90\.00%  best so far",
        first,
    )
    assert re.fullmatch(
        rf"{clock}  step 120/540  epoch 4\.4  loss 1\.2500  accuracy 50\.0% \(validation 50\.0%\)  "
        r"2,000 images/s  lr 1\.00e-03",
        second,
    )
