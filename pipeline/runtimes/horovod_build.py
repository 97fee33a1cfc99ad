"""What Horovod was built for, without importing it: a wrong build can end the process."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pipeline.runtimes.interpreter import bare_python_command

# In a process of its own. The library is loaded as importing it would, but without TensorFlow's
# Python, which would take seconds.
_LOAD = """
import ctypes, json, sys
library = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
names = ("gloo", "nccl", "mpi")
print(json.dumps([n for n in names if getattr(library, f"horovod_{n}_built")()]))
"""
_LOAD_TIMEOUT_S = 60


class HorovodBuild(NamedTuple):
    """The Horovod that is installed.

    Attributes:
      version: Its own.
      tensorflow: The version that it was built for; None where it does not say.
      library: Its extension of TensorFlow; None where it was built without one.
    """

    version: str
    tensorflow: str | None
    library: Path | None


def find_build() -> HorovodBuild | None:
    """The Horovod of this Python; None where there is none."""
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
    """Loads the extension, and says which of "gloo", "nccl" and "mpi" it was built with.

    Raises:
      OSError: It cannot be loaded; the message says why.
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
        raise OSError(f"loading it takes more than {_LOAD_TIMEOUT_S} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        last = lines[-1] if lines else f"exit code {done.returncode}"
        raise OSError(last.removeprefix("OSError: "))
    found: list[str] = json.loads(done.stdout)
    return found
