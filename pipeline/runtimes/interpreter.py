"""How this program starts another Python.

`python -c` and `python -m` search the current folder for modules before all others, which may be a
folder that somebody else writes to: a ctypes.py there would run as the user.
"""

from __future__ import annotations

import sys


def python_command(*arguments: str) -> list[str]:
    """A command that runs this Python and does not search the current folder for modules.

    PYTHONPATH holds, and packages are found that are installed in development mode.

    Args:
      arguments: As `python` takes them: "-m", a module, and its arguments; or "-c" and code.
    """
    return [sys.executable, "-P", *arguments]


def bare_python_command(code: str) -> list[str]:
    """The same for code that needs the standard library alone: nothing else is searched."""
    return [sys.executable, "-I", "-S", "-c", code]
