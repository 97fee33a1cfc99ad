"""Whether the devices of this process compute bfloat16 at full speed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

_CPU_FACTS = Path("/proc/cpuinfo")
# A CPU that has neither converts each number to float32 and back.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
_COMPUTE_CAPABILITY = (8, 0)  # Ampere, the first NVIDIA architecture with bfloat16


def slow_at_bfloat16() -> str | None:
    """Returns a clause that names a device with slow bfloat16; None if all devices are fast.

    Call it after the runtime has started, because the runtime selects the visible GPUs.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return describe_slow_cpu(_read(_CPU_FACTS))
    details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
    return next((slow for facts in details if (slow := describe_slow_gpu(facts))), None)


def describe_slow_cpu(cpuinfo: str) -> str | None:
    """Returns a clause if a CPU's bfloat16 is slow or of unknown speed; None if it is fast.

    TensorFlow's oneDNN kernels compute in bfloat16 only on x86 CPUs. The bfloat16 instructions of
    an ARM CPU therefore do not imply that it is fast.

    Args:
      cpuinfo: The text of Linux's /proc/cpuinfo. It lists the features of the CPU under `flags` on
        x86 and under `Features` on ARM.
    """
    if re.search(r"^Features\s*:", cpuinfo, re.MULTILINE):
        return "an ARM CPU is not known to be fast at bfloat16"
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if flags is not None and _CPU_FLAGS & set(flags[1].split()):
        return None
    return "a CPU without avx512_bf16 and amx_bf16 is slow at bfloat16"


def describe_slow_gpu(details: Mapping[str, Any]) -> str | None:
    """Returns a clause if a GPU's bfloat16 is slow; None if it is fast.

    Args:
      details: The details that TensorFlow reports. Only NVIDIA GPUs have a compute capability.
    """
    capability = details.get("compute_capability")
    if capability is not None and tuple(capability) >= _COMPUTE_CAPABILITY:
        return None
    name = details.get("device_name", "a GPU")
    known = "unknown" if capability is None else ".".join(map(str, capability))
    return f"{name} is slow at bfloat16 (compute capability {known}, and 8.0 is needed)"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
