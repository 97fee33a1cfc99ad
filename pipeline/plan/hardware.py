"""The machines of a plan: GPUs by name, nodes, and the links between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
      half_tflops: Peak of dense matrix products in bfloat16, 10^12 operations a second.
      single_tflops: The same for float32 as TensorFlow computes it by default, in TF32.
      memory_gib: Of one GPU.
      link_gb_per_s: To the other GPUs of its node, 10^9 bytes a second in each direction.
      efficiency: Part of the bfloat16 peak that training a ViT-B/16 reaches.
      source: Where the efficiency is from.
    """

    name: str
    half_tflops: float
    single_tflops: float
    memory_gib: float
    link_gb_per_s: float
    efficiency: float
    source: str


# Peaks, memory and links: NVIDIA's data sheets, without sparsity. Efficiency: 3 x 2 x 17.56e9
# operations an image (forward and twice as much back) at the images a second that JAX-Toolbox
# reports for ViT-B/16 in bfloat16: 900 on an A100, 1,459 on an H100. Nobody has published a figure
# for the others that we know of: theirs is the A100's, or the H100's for its own generation and
# later.
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
    """What gradients cross.

    Attributes:
      per_node: Workers on one node.
      node_bytes_per_s: What a node sends to others at most, and receives at the same time.
      node_latency_s: Of a message between nodes, from call to call.
      local_bytes_per_s: Between workers of one node, likewise.
      local_latency_s: Of a message within a node.
      hierarchical: Whether nodes reduce inside before they reduce with others, as NCCL does; else
        one ring goes through all workers, as Gloo's does.
    """

    per_node: int
    node_bytes_per_s: float
    node_latency_s: float = 10e-6
    local_bytes_per_s: float = 300e9
    local_latency_s: float = 3e-6
    hierarchical: bool = True
