"""The type of processor that computes, on which the bits of a result depend."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import tensorflow as tf

_CPU_FACTS = Path("/proc/cpuinfo")
# The instruction sets for which oneDNN, Eigen and XLA have kernels of their own.
_INSTRUCTION_SETS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "sve",
    "bf16",
)


def processor_type() -> str:
    """The names of the GPUs that this process uses, or else the model of the CPU."""
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
        return ", ".join(sorted({facts.get("device_name", "a GPU") for facts in details}))
    try:
        return describe_cpu(_CPU_FACTS.read_text(encoding="utf-8"))
    except OSError:
        return platform.machine()


def describe_cpu(cpuinfo: str) -> str:
    """The model and the instruction sets of a CPU.

    Libraries select kernels by the instruction sets, and block sizes by the model's caches.

    Args:
      cpuinfo: The text of Linux's /proc/cpuinfo.
    """
    fields = dict(re.findall(r"^([\w ]+?)\s*:[ \t]*(.*)$", cpuinfo, re.MULTILINE))
    model = fields.get("model name") or fields.get("CPU part") or platform.machine()
    features = (fields.get("flags") or fields.get("Features") or "").split()
    sets = [name for name in _INSTRUCTION_SETS if name in features]
    return f"{model} ({' '.join(sets)})" if sets else model
