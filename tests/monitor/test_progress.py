"""What the terminal shows, on a real pseudo-terminal and without one."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SHOW = """
import time
from pipeline.monitor.progress import ProgressDisplay
display = ProgressDisplay(540, 13.5)
row = {"step": 60, "epoch": 4.4, "loss": 1.25, "accuracy": 0.5, "top_5_accuracy": 0.9}
display.evaluated(row | {"split": "validation"}, best=True)
display.trained(row | {"step": 120, "examples_per_second": 2000.0, "learning_rate": 1e-3})
time.sleep(0.3)
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


def test_a_wide_terminal_shows_the_bar_with_the_last_validation_and_a_table_at_the_end():
    text = STYLE.sub("", on_terminal(140))
    assert "epoch 4.4/40" in text
    assert "22%" in text
    assert "loss 1.2500  accuracy 50.0% (validation 50.0%)  2,000 images/s  lr 1.00e-03" in text
    table = text[text.index("of step") :]
    assert re.search(r"train +50\.00% +90\.00% +1\.2500 +60", table)
    assert re.search(r"test +50\.00% +90\.00% +1\.2500 +60", table)


def test_a_narrow_terminal_has_a_bar_of_one_line():
    bars = [p for p in re.split(r"[\r\n]", STYLE.sub("", on_terminal(60))) if "epoch 4.4/40" in p]
    assert bars
    assert all(len(bar) <= 60 and "loss 1.250 50%" in bar for bar in bars)


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
