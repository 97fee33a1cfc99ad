"""What nvidia-smi says of this machine's GPUs."""

from __future__ import annotations

import shutil
import subprocess

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


def _failure(why: str) -> SettingsError:
    return SettingsError(
        f"nvidia-smi fails: {why}. Without a working driver there is no GPU: reload the driver, "
        "restart the machine or install the driver again, or set CUDA_VISIBLE_DEVICES= to train "
        "on the CPU"
    )
