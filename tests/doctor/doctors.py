"""Runs `vit doctor` as a command, and returns its output by line."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "jobs.cli", "doctor"]


class Line(NamedTuple):
    """One printed line."""

    level: str
    subject: str
    text: str


class Report(NamedTuple):
    """The output of a doctor."""

    code: int
    lines: list
    last: str
    errors: str

    @property
    def complaints(self):
        """(level, subject) of all warnings and errors, in order."""
        return [(line.level, line.subject) for line in self.lines if line.level != "ok"]

    def text(self, level, subject):
        """The only line with a level and a subject."""
        (line,) = [x for x in self.lines if (x.level, x.subject) == (level, subject)]
        return line.text


def environment(**changes):
    env = os.environ | {"PYTHONPATH": str(ROOT)} | changes
    return {name: value for name, value in env.items() if value is not None}


def doctor(*arguments, cwd, env=None, **options):
    """Runs a command to its end and checks that it prints no traceback."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd, text=True, capture_output=True, timeout=300, check=False,
        env=environment(**(env or {})), **options,
    )  # fmt: skip
    return read_report(done.returncode, done.stdout, done.stderr)


def read_report(code, output, errors):
    assert "Traceback" not in output + errors
    *lines, last = output.splitlines()
    return Report(code, [read_line(line) for line in lines], last, errors)


def read_line(line):
    """Parses level, subject and text from the columns."""
    found = re.fullmatch(r"(ok     |warning|error  )  (\S.{13})  (.+)", line)
    assert found, line
    return Line(found[1].strip(), found[2].strip(), found[3])
