"""Whether the devices of this process are fast at bfloat16."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

_CPU_FACTS = Path("/proc/cpuinfo")
# Without one of them, a CPU converts each number to float32 and back.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
_COMPUTE_CAPABILITY = (8, 0)  # of the first NVIDIA GPUs with bfloat16: Ampere


def slow_at_bfloat16() -> str | None:
    """Which device of this process is not fast at bfloat16, as a clause; None if all are fast.

    To be called when the runtime has started: it chooses which GPUs are visible.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return describe_slow_cpu(_read(_CPU_FACTS))
    details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
    return next((slow for facts in details if (slow := describe_slow_gpu(facts))), None)


def describe_slow_cpu(cpuinfo: str) -> str | None:
    """Says that a CPU is slow at bfloat16, or not known to be fast; None if it is fast.

    TensorFlow's oneDNN kernels compute in bfloat16 only on x86 CPUs, so that an ARM CPU's own
    bfloat16 instructions are no reason to expect speed.

    Args:
      cpuinfo: The text of Linux's /proc/cpuinfo, which calls the CPU's features `flags` on x86 and
        `Features` on ARM.
    """
    if re.search(r"^Features\s*:", cpuinfo, re.MULTILINE):
        return "an ARM CPU is not known to be fast at bfloat16"
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if flags is not None and _CPU_FLAGS & set(flags[1].split()):
        return None
    return "a CPU without avx512_bf16 and amx_bf16 is slow at bfloat16"


def describe_slow_gpu(details: Mapping[str, Any]) -> str | None:
    """Says that a GPU is slow at bfloat16; None if it is fast.

    Args:
      details: What TensorFlow knows of it; other makers' GPUs have no compute capability.
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
