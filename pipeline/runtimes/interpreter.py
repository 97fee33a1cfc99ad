"""Commands that start another Python interpreter.

`python -c` and `python -m` search the current folder for modules first. If another user can write
to that folder, a file such as ctypes.py in it would run with the rights of this user.
"""

from __future__ import annotations

import sys


def python_command(*arguments: str) -> list[str]:
    """A command that runs this Python without searching the current folder for modules.

    PYTHONPATH and packages installed in development mode still work.

    Args:
      arguments: Arguments of `python`: "-m", a module, and its arguments; or "-c" and code.
    """
    return [sys.executable, "-P", *arguments]


def bare_python_command(code: str) -> list[str]:
    """A command that runs `code` with the standard library as the only module search path."""
    return [sys.executable, "-I", "-S", "-c", code]
