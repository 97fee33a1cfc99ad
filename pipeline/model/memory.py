"""An estimate of the memory that training needs, before anything is built."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.model.architecture import architecture
from pipeline.model.backend import FEW_NUMBERS
from pipeline.model.cost import activation_bytes_per_image

_MIB = 2**20
# Measured on a CPU (`python -m benchmarks memory`, and networks of 3 to 18 blocks): the process
# before it builds anything; the graphs, of the whole and of each block; what XLA compiles;
# RandAugment.
_LIBRARIES, _GRAPHS, _GRAPHS_A_BLOCK = 620 * _MIB, 55 * _MIB, 11 * _MIB
_COMPILED, _RAND_AUGMENT = 35 * _MIB, 35 * _MIB
# TensorFlow's allocator keeps what it once took, and cannot fill every gap between tensors.
_GAPS = 0.07
# CUDA, cuDNN and NCCL on a GPU. Not measured.
_GPU_LIBRARIES = 1536 * _MIB
# What a process or a GPU holds before the pipeline builds anything.
LIBRARIES = "Python and TensorFlow"


def estimate_memory(
    config: Config,
    parameters: int,
    num_replicas: int,
    *,
    frozen: int = 0,
    side_by_side: int = 1,
    replicas_here: int = 1,
    on_gpu: bool = False,
) -> dict[str, int]:
    """Bytes of a GPU, or on a CPU of a process, by what they are for.

    Weights, gradients, moments and averages are float32, four bytes a parameter each. Activations
    are those of one part of the replica's batch, kept for the backward pass. Where a batch has
    several parts, each part that is being computed has gradients beside their sum; and where parts
    are computed in turn, the next ones begin while the new sum is made. In 16 bits each part makes
    a copy of the weights.

    Args:
      config: Network, batch, precision.
      parameters: Of the network, frozen ones included.
      num_replicas: In all processes.
      frozen: Parameters without gradients and moments.
      side_by_side: Parts computed at a time (`Runtime.parallel_parts`).
      replicas_here: Replicas of the process; they share a CPU's memory, and have a GPU each.
      on_gpu: Whether the memory is a GPU's.
    """
    one = 4 * (parameters - frozen)
    images = config.data.global_batch_size // (num_replicas * config.optim.accumulate_steps)
    arch = architecture(config.model)
    per_image = activation_bytes_per_image(
        arch, config.data.image_size, config.train.precision, recompute=config.train.recompute
    )
    in_turn, half = config.optim.accumulate_steps, config.train.precision != "float32"
    gradients = 1 + side_by_side * ((in_turn * side_by_side > 1) + (in_turn > 1))
    tensors = {
        "weights": (4 + 2 * half * side_by_side) * parameters,
        "gradients": gradients * one,
        "AdamW's two moments": 2 * one,
    }
    if config.optim.ema_momentum is not None:
        tensors["averaged weights"] = one
    tensors[f"activations of {images} images"] = images * per_image
    if on_gpu:
        return tensors | {LIBRARIES: _GPU_LIBRARIES}
    tensors = {what: replicas_here * size for what, size in tensors.items()}
    return tensors | {
        "gaps between tensors": int(_GAPS * sum(tensors.values())),
        "graphs and compiled code": _code_bytes(config, images // side_by_side),
        LIBRARIES: _LIBRARIES,
    }


def _code_bytes(config: Config, images: int) -> int:
    """Of the graphs of training and input, and of what is compiled for parts of so many images."""
    arch = architecture(config.model)
    largest = images * arch.num_tokens(config.data.image_size) * max(arch.width, arch.mlp_dim)
    compiles = largest >= FEW_NUMBERS and config.train.xla != "never"
    augments = config.data.augment.rand_augment_layers > 0
    graphs = _GRAPHS + arch.depth * _GRAPHS_A_BLOCK
    return graphs + compiles * _COMPILED + augments * _RAND_AUGMENT
