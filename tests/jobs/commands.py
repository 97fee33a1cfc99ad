"""Starts commands as a user does, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

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


def vit(*arguments, start=("-m", "jobs.cli"), cwd=ROOT):
    """Runs a command to its end; `start` is what Python is given before its arguments."""
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
