"""Runs commands to their end, in this process or in one of their own."""

import contextlib
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from jobs.cli import main

ROOT = Path(__file__).parent.parent.parent


# How an installed `vit` begins: the current folder is not searched, and Python's -P is not set.
AS_INSTALLED = (
    "-c",
    "import sys; sys.path.remove(''); from jobs.cli import run_process; run_process()",
)


def shadow_modules(folder):
    """Writes files that end a Python which imports them in the place of modules of their names."""
    names = "jobs pipeline random yaml json pickle socket threading tempfile numpy tensorflow"
    for name in names.split():
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the current folder')\n")


class Done(NamedTuple):
    """What a command that has ended left, by the names of subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


def vit(*arguments, cwd=ROOT, command=main):
    """Runs a command in this process, which has TensorFlow already: its import takes seconds.

    Args:
      command: Takes the arguments and returns the exit code; by default that of `vit`.

    For what depends on the process itself (signals, imports, standard streams, threads and
    devices), and for what TensorFlow prints, there is `vit_process`.
    """
    words = [str(argument) for argument in arguments]
    logger = logging.getLogger("pipeline")
    logging_before = logger.handlers, logger.level
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["vit", *words]),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = command(words)
        except SystemExit as usage:  # argparse has said what is wrong
            code = int(usage.code or 0)
        finally:
            logger.handlers, logger.level = logging_before
    return Done(code, out.getvalue(), err.getvalue())


def vit_process(*arguments, start=("-m", "jobs.cli"), cwd=ROOT, path=str(ROOT)):
    """Runs a command as a process; `start` is what Python is given before its arguments.

    Args:
      path: The process's PYTHONPATH. Without it, a process finds modules in `cwd`.
    """
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path},
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
