"""Whether the devices of this process have arithmetic for bfloat16."""

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
    """The device of this process that has no bfloat16 arithmetic, in words; None if all have it.

    To be called when the runtime has started: it chooses which GPUs are visible.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return describe_slow_cpu(_read(_CPU_FACTS))
    details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
    return next((slow for facts in details if (slow := describe_slow_gpu(facts))), None)


def describe_slow_cpu(cpuinfo: str) -> str | None:
    """A CPU without bfloat16 arithmetic, in words.

    Args:
      cpuinfo: What Linux has in /proc/cpuinfo.
    """
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if flags is not None and _CPU_FLAGS & set(flags[1].split()):
        return None
    return "a CPU without avx512_bf16 and amx_bf16"


def describe_slow_gpu(details: Mapping[str, Any]) -> str | None:
    """A GPU without bfloat16 arithmetic, in words.

    Args:
      details: What TensorFlow knows of it; other makers' GPUs have no compute capability.
    """
    capability = details.get("compute_capability")
    if capability is not None and tuple(capability) >= _COMPUTE_CAPABILITY:
        return None
    name = details.get("device_name", "a GPU")
    known = "unknown" if capability is None else ".".join(map(str, capability))
    return f"{name} (compute capability {known}, and 8.0 is needed)"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
