"""The output on a pseudo-terminal and without a terminal."""

import io
import os
import pty
import re
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.monitor import progress
from pipeline.monitor.bars import EpochAndRunBars
from pipeline.monitor.phase import PhaseDisplay
from pipeline.monitor.progress import ProgressDisplay, duration

ROOT = Path(__file__).parent.parent.parent
# Time passes only when told to, and then a terminal is drawn on.
SHOW = """
from fractions import Fraction

from pipeline.monitor import progress
from pipeline.monitor.phase import PhaseDisplay
now_s = 1000.0
progress.time.monotonic = lambda: now_s
def wait(seconds, live):
    global now_s
    now_s += seconds
    if live is not None:
        live.refresh()
phases = PhaseDisplay()
phases.show("reading the data")
phases.show("building the model")
wait(0.6, phases._status and phases._status._live)
phases.close()
display = progress.ProgressDisplay(540, Fraction(27, 2))
live = display._bars and display._bars._bar
display.show_activity("compiling the training step")
wait(1.2, live)
display.trained({"step": 1, "loss": 1.5, "accuracy": 0.25, "examples_per_second": None})
wait(0.9, live)
row = {"step": 60, "epoch": 4.4, "loss": 1.25, "accuracy": 0.5, "top_5_accuracy": 0.9}
display.evaluated(row | {"split": "validation"}, best=True)
rate = {"examples_per_second": 2000.0, "learning_rate": 1e-3}
display.trained(row | {"step": 120, "epoch": 8.9} | rate)
wait(1.2, live)
display.evaluating("validation", 3, 20)
wait(0.8, live)
display.finished([row | {"split": "train"}, row | {"split": "test", "weights_of_step": 60}])
"""
STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_terminal(columns, **variables):
    """The output on a terminal with a number of columns."""
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
    assert process.wait(120) == 0
    return b"".join(pieces).decode()


@pytest.mark.processes
def test_a_wide_terminal_shows_a_bar_for_the_epoch_and_one_for_the_run_and_a_table_at_the_end():
    text = STYLE.sub("", on_terminal(140))
    assert "building the model ..." in text
    assert re.search(r"run +[━╸╺]+ +0% \S+ compiling the training step", text)
    assert re.search(r"epoch 1/40 [━╸╺]+ +7% \S+ loss 1.5000  accuracy 25.0%\s", text)
    assert re.search(r"run +[━╸╺]+ +22% \S+ validation 3/20", text)
    # 120 steps are eight epochs of 13.5 steps and 12 steps, of 540.
    told = "loss 1.2500  accuracy 50.0%  2,000 images/s  lr 1.00e-03"
    drawn = re.findall(rf"epoch 9/40 [━╸╺]+ +89% \S+ {told}", text)
    assert len(drawn) >= 2  # while it waited, and at the end
    assert re.search(r"run +[━╸╺]+ +22% \S+ step 120/540  validation 50.0%", text)
    table = text[text.index("of step") :]
    assert re.search(r"train +50\.00% +90\.00% +1\.2500 +60", table)
    assert re.search(r"test +50\.00% +90\.00% +1\.2500 +60", table)


@pytest.mark.processes
def test_on_a_narrow_terminal_each_bar_has_one_line():
    lines = re.split(r"[\r\n]", STYLE.sub("", on_terminal(60)))
    bars = [line for line in lines if re.match(r"(epoch \d+/40|run) ", line)]
    assert all(len(bar) <= 60 for bar in bars)
    assert re.search(r"epoch 9/40 .* 89% \S+ loss 1.250 50%", bars[-2])
    assert re.search(r"run .* 22% \S+ validation 3/20", bars[-1])


def test_the_bar_of_an_epoch_is_full_at_its_last_step_and_begins_anew_after_it():
    console = Console(force_terminal=True, width=140, file=io.StringIO())
    bars = EpochAndRunBars(console, total_steps=25, steps_per_epoch=Fraction(10))
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


@pytest.mark.processes
def test_no_color_disables_colors():
    color = re.compile(r"\x1b\[[0-9;]*3[0-9]")
    assert color.search(on_terminal(140))
    assert not color.search(on_terminal(140, NO_COLOR="1"))


@pytest.mark.processes
@pytest.mark.parametrize("columns", ["40", "200"])
def test_elsewhere_it_writes_plain_lines_that_are_not_wrapped(columns):
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT, env=os.environ | {"COLUMNS": columns}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "\x1b" not in done.stdout
    clock = r"\d\d:\d\d:\d\d"
    reading, building, compiling, began, first, second, *_ = done.stdout.splitlines()
    assert re.fullmatch(rf"{clock}  reading the data", reading)
    assert re.fullmatch(rf"{clock}  building the model", building)
    assert re.fullmatch(rf"{clock}  compiling the training step", compiling)
    assert re.fullmatch(rf"{clock}  step   1/540  epoch 0\.1  first step after 1\.2 s", began)
    assert re.fullmatch(
        rf"{clock}  step  60/540  epoch 4\.4  validation: loss 1\.2500  accuracy 50\.00%  "
        r"top-5 90\.00%  best so far",
        first,
    )
    assert re.fullmatch(
        rf"{clock}  step 120/540  epoch 8\.9  loss 1\.2500  accuracy 50\.0% \(validation 50\.0%\)  "
        r"2,000 images/s  lr 1\.00e-03  0:03 left",  # 420 steps at 119 in 0.9 s
        second,
    )


class Clock:
    """A clock that advances only on request."""

    def __init__(self, monkeypatch):
        self.now_s = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now_s)


def train(display, clock, step_s, steps, first_step_s=12.0):
    """Trains in groups of steps like the loop, and yields at the end of each group."""
    display.show_activity("compiling the training step")
    clock.now_s += first_step_s
    done, stretch = 1, 1
    while True:
        display.trained({"step": done, "loss": 2.0, "accuracy": 0.5, "examples_per_second": 9.0})
        yield done
        if done == steps:
            return
        stretch = min(max(1, int(1 / step_s)), steps - done)
        clock.now_s += stretch * step_s
        done += stretch


@pytest.mark.parametrize("step_s", [0.003, 0.3, 0.9, 2.0, 25.0])
def test_a_line_is_printed_within_three_seconds_of_the_first_step_and_then_by_time(
    step_s, monkeypatch, capsys
):
    clock = Clock(monkeypatch)
    display = ProgressDisplay(10**6, Fraction(100))
    times, began_s = [], clock.now_s + 12.0
    for _ in train(display, clock, step_s, int(100 / step_s)):
        for line in capsys.readouterr().out.splitlines():
            if " step " in line:
                times.append((clock.now_s - began_s, line))
    assert times[0][0] == 0
    assert times[0][1].endswith("first step after 12.0 s")
    # The first line with a rate: at once if a step takes longer than that.
    assert times[1][0] <= max(3.0, step_s)
    assert "9 images/s" in times[1][1]
    gaps = [b - a for (a, _), (b, _) in pairwise(times[1:])]
    assert all(10 <= gap <= max(11.01, step_s) for gap in gaps)
    # What is left, by hand.
    steps, at_s = (int(re.search(r"step +(\d+)/", times[-1][1])[1]), times[-1][0])
    left = times[-1][1].split()[-2]
    assert left == duration((10**6 - steps) * at_s / (steps - 1))


def test_a_long_evaluation_shows_its_progress(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    display = ProgressDisplay(500, Fraction(100))
    for _ in train(display, clock, 0.5, 20):
        pass
    capsys.readouterr()
    for done in range(40):
        display.evaluating("validation", done, 40)
        clock.now_s += 1.0
    row = {"step": 20, "split": "validation", "loss": 1.0, "accuracy": 0.5, "top_5_accuracy": 1}
    display.evaluated(row, best=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + 1
    assert re.search(r"step  20/500  epoch 0\.2  validation: batch \d+/40  0:\d\d left$", lines[0])
    done = [int(re.search(r"batch (\d+)/", line)[1]) for line in lines[:-1]]
    assert [line.split()[-2] for line in lines[:-1]] == [f"0:{40 - d:02}" for d in done]
    assert [b - a for a, b in pairwise(done)] == [10, 10, 10]


def test_other_output_delays_the_next_line(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    display = ProgressDisplay(500, Fraction(100))
    for _ in train(display, clock, 0.5, 20):
        pass
    capsys.readouterr()
    clock.now_s += 9.9
    display.message("a message")
    clock.now_s += 9.9
    display.trained({"step": 21, "loss": 2.0, "accuracy": 0.5})
    assert capsys.readouterr().out == "a message\n"
    clock.now_s += 0.2
    display.trained({"step": 22, "loss": 2.0, "accuracy": 0.5})
    assert "step  22/500" in capsys.readouterr().out


def test_the_remaining_time_restarts_when_a_run_resumes(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    display = ProgressDisplay(1000, Fraction(100))
    display.advance(900)
    values = {"loss": 2.0, "accuracy": 0.5}
    for step in (901, 903, 911):
        display.trained({"step": step, **values})
        clock.now_s += 2.0 * (step - 899)
    assert capsys.readouterr().out.splitlines()[-1].endswith("  3:14 left")  # 97 steps of 2 s


@pytest.mark.parametrize(("top_5", "times"), [(True, 2), (False, 0)])
def test_top_5_is_omitted_with_few_classes(top_5, times, capsys):
    display = ProgressDisplay(500, Fraction(100), top_5=top_5)
    row = {"step": 20, "split": "test", "loss": 1.0, "accuracy": 0.5, "top_5_accuracy": 1.0}
    display.evaluated(row, best=False)
    display.finished([row])
    out = capsys.readouterr().out
    assert out.count("top-5") == times
    assert out.count("100.00%") == times


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3599.6, "1:00:00"), (90061, "25:01:01")]
)
def test_the_time_left_as_text(seconds, text):
    assert duration(seconds) == text


def test_other_ranks_show_nothing(capsys):
    phases, display = (
        PhaseDisplay(enabled=False),
        ProgressDisplay(500, Fraction(100), enabled=False),
    )
    phases.message("run folder")
    phases.show("reading the data")
    display.show_activity("compiling")
    display.trained({"step": 1, "loss": 2.0, "accuracy": 0.5})
    phases.close()
    assert capsys.readouterr().out == ""


def test_lines_carry_the_date_from_the_second_day_on(monkeypatch, capsys):
    at = [time.struct_time((2026, 11, day, 23, 59, 58, 0, 0, 0)) for day in (28, 29)]
    monkeypatch.setattr(progress.time, "localtime", lambda: at[0])
    strftime = time.strftime
    monkeypatch.setattr(
        progress.time, "strftime", lambda form, when=None: strftime(form, when or at[0])
    )
    display = ProgressDisplay(500, Fraction(100))
    display.show_activity("reading")
    at.pop(0)
    display.show_activity("reading")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["23:59:58  reading", "2026-11-29 23:59:58  reading"]
