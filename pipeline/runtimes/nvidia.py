"""Finds this machine's GPUs with nvidia-smi."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from pipeline.errors import SettingsError

_NO_GPU = "No devices were found"  # printed with a failure if the driver runs without a GPU
_TIMEOUT_S = 30.0


def run_nvidia_smi(*arguments: str) -> list[str]:
    """Returns the lines that nvidia-smi prints; empty if it is not installed or finds no GPU.

    Raises:
      SettingsError: nvidia-smi is installed but fails, for example because the driver is broken.
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
        raise _failure(f"it did not answer within {_TIMEOUT_S:g} s") from None
    except OSError as problem:
        raise _failure(f"it cannot be started ({problem})") from None
    if _NO_GPU in done.stdout:
        return []
    if done.returncode != 0:
        output = " ".join((done.stdout + done.stderr).split())[:500].rstrip(".")
        raise _failure(output or f"exit code {done.returncode}")
    return [line for line in done.stdout.splitlines() if line.strip()]


def find_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """This node's GPUs, in the format of CUDA_VISIBLE_DEVICES.

    Raises:
      SettingsError: CUDA_VISIBLE_DEVICES is not set and nvidia-smi fails.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name for name in visible.split(",") if name.strip() not in ("", "-1"))
    count = sum(line.startswith("GPU ") for line in run_nvidia_smi("-L"))
    return tuple(str(index) for index in range(count))


def _failure(why: str) -> SettingsError:
    return SettingsError(
        f"nvidia-smi fails: {why}. GPUs need a working driver: reload it, restart the machine or "
        "reinstall the driver. To train on the CPU, set CUDA_VISIBLE_DEVICES="
    )
