"""Processes of other libraries, for a benchmark that times them in turn with ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TextIO, cast

from pipeline.errors import PipelineError

_ROOT = Path(__file__).parents[2]
# The folder of an environment is .contenders/<name>; `make contenders` creates it.
_ENVIRONMENTS = _ROOT / ".contenders"


def python_of(environment: str) -> str | None:
    """Returns the path of an environment's Python, or None if it is not installed."""
    python = _ENVIRONMENTS / environment / "bin" / "python"
    return str(python) if python.exists() else None


class Contender:
    """A running process, which times batches and is idle in between.

    Args:
      python: Path of its interpreter; see `python_of`.
      module: Module of benchmarks.contenders.
      arguments: Its arguments.

    Attributes:
      process: The process.

    Raises:
      PipelineError: It cannot be started. It has printed the reason to standard error.
    """

    def __init__(self, python: str, module: str, arguments: Sequence[str]) -> None:
        self._module = module
        self.process = subprocess.Popen(
            [python, "-P", "-m", f"benchmarks.contenders.{module}", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )  # fmt: skip
        self._questions = cast(TextIO, self.process.stdin)
        self._answers = cast(TextIO, self.process.stdout)
        self._read("ready")

    def time(self, warm_up_s: float, seconds: float) -> float:
        """Images per second.

        Raises:
          PipelineError: It ended.
        """
        try:
            self._questions.write(f"{warm_up_s} {seconds}\n")
            self._questions.flush()
        except BrokenPipeError:
            pass  # What _read raises says more.
        return float(self._read("rate"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def _read(self, word: str) -> str:
        for line in self._answers:
            # Libraries print notices to standard output.
            if line.split(" ")[0].strip() == word:
                return line.removeprefix(word).strip()
        self.process.communicate()
        code = self.process.returncode
        raise PipelineError(f"{self._module} ended with exit code {code}; see its message above")
