"""Inspects the installed Horovod without importing it: a bad build can crash the process."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pipeline.runtimes.interpreter import bare_python_command

# Runs in a child process. It loads the library as an import would, but without TensorFlow's Python
# code, which would take seconds.
_LOAD = """
import ctypes, json, sys
library = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
names = ("gloo", "nccl", "mpi")
print(json.dumps([n for n in names if getattr(library, f"horovod_{n}_built")()]))
"""
_LOAD_TIMEOUT_S = 60


class HorovodBuild(NamedTuple):
    """The installed Horovod.

    Attributes:
      version: Version of Horovod.
      tensorflow: Version of TensorFlow that it was built for; None if unknown.
      library: Path of its TensorFlow extension; None if it was built without one.
    """

    version: str
    tensorflow: str | None
    library: Path | None


def find_build() -> HorovodBuild | None:
    """Returns the Horovod that this Python can import; None if there is none."""
    spec = find_spec("horovod")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    try:
        own = version("horovod")
    except PackageNotFoundError:
        own = "of unknown version"
    try:
        built_for = json.loads((folder / "metadata.json").read_text()).get("tensorflow")
    except (OSError, ValueError):
        built_for = None
    return HorovodBuild(own, built_for, next(folder.glob("tensorflow/mpi_lib*.so"), None))


def load_controllers(library: Path) -> list[str]:
    """Loads the extension and returns which of "gloo", "nccl" and "mpi" it was built with.

    Raises:
      OSError: The extension cannot be loaded; the message gives the reason.
    """
    try:
        done = subprocess.run(
            [*bare_python_command(_LOAD), str(library)],
            capture_output=True,
            text=True,
            timeout=_LOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"loading it took more than {_LOAD_TIMEOUT_S} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        last = lines[-1] if lines else f"exit code {done.returncode}"
        raise OSError(last.removeprefix("OSError: "))
    found: list[str] = json.loads(done.stdout)
    return found
