"""What nvidia-smi says of this machine's GPUs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from pipeline.errors import SettingsError

_NO_GPU = "No devices were found"  # it says so, and fails, where the driver runs without a GPU
_TIMEOUT_S = 30.0


def ask_nvidia_smi(*arguments: str) -> list[str]:
    """The lines that nvidia-smi prints; none where it is not installed, or finds no GPU.

    Raises:
      SettingsError: It is installed and fails, as it does with a broken driver.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _failure(f"it has not answered for {_TIMEOUT_S:g} s") from None
    except OSError as problem:
        raise _failure(f"it cannot be started ({problem})") from None
    if _NO_GPU in done.stdout:
        return []
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[:500].rstrip(".")
        raise _failure(said or f"exit code {done.returncode}")
    return [line for line in done.stdout.splitlines() if line.strip()]


def find_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """This node's GPUs as CUDA_VISIBLE_DEVICES names them.

    Raises:
      SettingsError: That is not set, and nvidia-smi fails.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name.strip() not in ("", "-1"))
    count = sum(line.startswith("GPU ") for line in ask_nvidia_smi("-L"))
    return tuple(str(index) for index in range(count))


def _failure(why: str) -> SettingsError:
    return SettingsError(
        f"nvidia-smi fails: {why}. Without a working driver there is no GPU: reload the driver, "
        "restart the machine or install the driver again, or set CUDA_VISIBLE_DEVICES= to train "
        "on the CPU"
    )
