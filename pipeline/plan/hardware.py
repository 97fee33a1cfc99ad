"""The machines of a plan: GPUs by name, nodes, and the links between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One type of GPU.

    Attributes:
      name: Name on the command line.
      half_tflops: Peak of dense bfloat16 matrix products, 10^12 operations per second.
      single_tflops: The same for float32, which TensorFlow computes in TF32 by default.
      memory_gib: Memory in GiB.
      link_gb_per_s: Bandwidth to the other GPUs of its node, 10^9 bytes per second per direction.
      efficiency: Fraction of the bfloat16 peak that training ViT-B/16 reaches.
      source: Source of the efficiency.
    """

    name: str
    half_tflops: float
    single_tflops: float
    memory_gib: float
    link_gb_per_s: float
    efficiency: float
    source: str


# Peaks, memory and links: NVIDIA's data sheets, without sparsity. Efficiency: 3 x 2 x 17.56e9
# operations per image (forward, and twice as much backward) times the throughput that JAX-Toolbox
# reports for ViT-B/16 in bfloat16: 900 images/s on A100 and 1,459 on H100. We know of no published
# values for the other GPUs. They are assumed to equal the A100, or the H100 for its generation and
# later ones.
_JAX, _AS_A100, _AS_H100 = "JAX-Toolbox", "assumed, as the A100", "assumed, as the H100"
# fmt: off
#            name     half  single    GiB  link  efficiency
_TABLE = (
    Gpu("a100",      312.0,  156.0,  80.0, 300.0, 0.30, _JAX),
    Gpu("h100",      989.0,  494.0,  80.0, 450.0, 0.155, _JAX),
    Gpu("h200",      989.0,  494.0, 141.0, 450.0, 0.155, _AS_H100),
    Gpu("b200",     2250.0, 1125.0, 180.0, 900.0, 0.155, _AS_H100),
    Gpu("l4",        121.0,   60.0,  24.0,  32.0, 0.30, _AS_A100),
    Gpu("l40s",      362.0,  183.0,  48.0,  32.0, 0.30, _AS_A100),
)
# fmt: on
GPUS = {gpu.name: gpu for gpu in _TABLE}


@dataclass(frozen=True)
class Links:
    """The links that carry gradients.

    Attributes:
      per_node: Workers per node.
      node_bytes_per_s: Bandwidth of a node to the others, per direction.
      node_latency_s: Latency of a message between nodes, from call to call.
      local_bytes_per_s: Bandwidth between workers on one node, per direction.
      local_latency_s: Latency of a message within a node.
      hierarchical: Whether the reduction within nodes precedes that between nodes, as in NCCL.
        Otherwise one ring passes through all workers, as in Gloo.
    """

    per_node: int
    node_bytes_per_s: float
    node_latency_s: float = 10e-6
    local_bytes_per_s: float = 300e9
    local_latency_s: float = 3e-6
    hierarchical: bool = True
