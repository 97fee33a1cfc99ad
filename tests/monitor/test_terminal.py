"""Untrusted text is plain text on a terminal: no escape sequence, markup or link."""

import ast
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent
HOSTILE = (
    "\x1b]0;pwned\x07|\x1b[2J|\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\|\x1b[8mhidden|"
    "\x9b31m|\u202egnp.exe|[red]red[/red]|:smile:|\rover"
)
# What a terminal must not receive from it.
COMMANDS = ["\x1b]", "pwned\x07", "\x1b[2J", "\x1b[8m", "\x9b", "\u202e", "http://evil\x1b"]

# Prints by all ways; the second half while a live display is on the terminal.
PRINTS = f"""
import logging, sys, warnings
from fractions import Fraction
from rich.table import Table
from rich.text import Text
from jobs.output import take_over_output
from pipeline.doctor.display import Display
from pipeline.doctor.finding import Finding
from pipeline.monitor.phase import PhaseDisplay
from pipeline.monitor.progress import CountDisplay, ProgressDisplay
take_over_output(ends=False)
name = {HOSTILE!r}

def say(where):
    print(where, "printed", name, flush=True)
    print(where, "to stderr", name, file=sys.stderr, flush=True)
    sys.stdout.writelines([where, " lines ", name, "\\n"])
    logging.getLogger().warning("%s logged %s", where, name)
    warnings.warn(where + " warned " + name)

say("before")
phase = PhaseDisplay()
phase.show("phase " + name)
phase.message("message " + name)
say("beside a phase")
phase.close()
progress = ProgressDisplay(10, Fraction(5))
progress.message("message " + name)
progress.show_activity("doing " + name)
say("beside bars")
progress.evaluating(name, 0, 3)
numbers = {{"accuracy": 0.5, "top_5_accuracy": 0.5, "loss": 1.0, "step": 1}}
progress.finished([{{"split": name}} | numbers])
count = CountDisplay(3, name)
count.add(1)
say("beside a count")
count.close()
display = Display(as_json=False, enabled=True)
display.show(Finding("error", name, "found " + name, "do " + name))
say("after")
raise ValueError("raised " + name)
"""


def shown_on_a_terminal(tmp_path):
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    script = tmp_path / "prints.py"
    script.write_text(PRINTS, encoding="utf-8")
    with open(tmp_path / "shown", "wb") as copy:
        process = subprocess.Popen(
            [sys.executable, script], cwd=ROOT, stdin=slave, stdout=slave, stderr=slave,
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "200", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        os.close(slave)
        os.set_blocking(master, True)
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the terminal's last writer has ended
                break
            copy.write(piece)
        process.wait(timeout=60)
    os.close(master)
    return (tmp_path / "shown").read_bytes().decode()


def test_on_a_terminal_only_the_displays_color_and_move_the_cursor(tmp_path):
    shown = shown_on_a_terminal(tmp_path)
    assert not [command for command in COMMANDS if command in shown]
    for where in ("before", "beside a phase", "beside bars", "beside a count", "after"):
        for how in ("printed", "to stderr", "lines", "logged", "warned"):
            assert f"{where} {how} " in shown.replace("\r\n", "")
    assert r"raised \x1b]0;pwned\x07" in shown
    assert "[red]red[/red]" in shown
    assert ":smile:" in shown
    assert "\x1b[" in shown  # of the displays
    # Rich sets colors, and moves and erases within its own lines.
    found = set(re.findall(r"\x1b\[[0-9;?]*([a-zA-Z])", shown))
    assert found <= set("mAKhlGH")


def test_without_a_terminal_there_are_no_escape_sequences(tmp_path):
    script = tmp_path / "prints.py"
    script.write_text(PRINTS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=ROOT, capture_output=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    shown = (done.stdout + done.stderr).decode()
    assert "after printed" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


@pytest.mark.parametrize(
    "path",
    sorted({*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/**/*.py")}),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nothing_writes_to_a_terminal_but_the_streams_and_the_one_console(path):
    # description.py draws a table into a string.
    if path.name in ("terminal.py", "description.py"):
        return
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
            assert "Console" not in {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and node.attr in ("__stdout__", "__stderr__"):
            pytest.fail(f"line {node.lineno}: this stream is not escaped")
        if isinstance(node, ast.Attribute) and node.attr == "buffer":
            assert not ast.unparse(node).startswith(("sys.stdout", "sys.stderr")), node.lineno
