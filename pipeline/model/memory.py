"""Estimates the memory that training needs before the model is built."""

from __future__ import annotations

from pipeline.config import Config
from pipeline.model.architecture import architecture
from pipeline.model.backend import MIN_COMPILED_SIZE
from pipeline.model.cost import activation_bytes_per_image

_MIB = 2**20
# Measured on a CPU with `python -m benchmarks memory` and networks of 3 to 18 blocks: the process
# before it builds a model; the graphs, in total and per block; code compiled by XLA; RandAugment.
_LIBRARIES, _GRAPHS, _GRAPH_PER_BLOCK = 620 * _MIB, 55 * _MIB, 11 * _MIB
_COMPILED, _RAND_AUGMENT = 35 * _MIB, 35 * _MIB
# TensorFlow's allocator does not return memory, and cannot fill every gap between tensors.
_GAPS = 0.07
# CUDA, cuDNN and NCCL on a GPU. This is an assumption and has not been measured.
_GPU_LIBRARIES = 1536 * _MIB
# With microbatches: the sum as integers, the scale of each value, and the sum as float32.
_EXACT_SUM = 3
# The memory of the process, or of its libraries on a GPU, before the model is built.
LIBRARIES = "Python and TensorFlow"


def estimate_memory(
    config: Config,
    parameters: int,
    num_replicas: int,
    *,
    frozen: int = 0,
    parallel_parts: int = 1,
    local_replicas: int = 1,
    on_gpu: bool = False,
) -> dict[str, int]:
    """Estimates bytes by purpose, for one GPU or, on a CPU, for one process.

    Weights, gradients, moments and weight averages are float32, four bytes per parameter each.
    Activations are those of one part of the replica's batch, kept for the backward pass. If a batch
    has several parts, each part being computed holds gradients in addition to their sum. If parts
    are computed in sequence, the next ones start while the new sum is being formed. In 16-bit
    precision each part has a copy of the weights. With `train.deterministic`, `parallel_parts`
    microbatches are computed concurrently, and each has its gradients twice, as tensors and as one
    vector.

    Args:
      config: Settings of the network, the batch and the precision.
      parameters: Number of parameters, including frozen ones.
      num_replicas: Number of replicas in all processes.
      frozen: Number of parameters without gradients and moments.
      parallel_parts: Number of parts computed concurrently (`Runtime.parallel_parts`).
      local_replicas: Number of replicas in this process. They share the memory of a CPU; on GPUs
        each has its own.
      on_gpu: Whether to estimate GPU memory.
    """
    one = 4 * (parameters - frozen)
    in_turn, half = config.optim.accumulate_steps, config.train.precision != "float32"
    if config.microbatches is None or config.microbatch_size is None:
        images = config.data.global_batch_size // (num_replicas * in_turn)
        gradients = 1 + parallel_parts * ((in_turn * parallel_parts > 1) + (in_turn > 1))
    else:
        parallel_parts = min(parallel_parts, -(-config.microbatches // num_replicas))
        images = parallel_parts * config.microbatch_size // in_turn
        gradients = _EXACT_SUM + parallel_parts * (2 + (in_turn > 1))
    tensors = {
        "weights": (4 + 2 * half * parallel_parts) * parameters,
        "gradients": gradients * one,
        "AdamW's two moments": 2 * one,
    }
    if config.optim.ema_momentum is not None:
        tensors["averaged weights"] = one
    if config.model.builder is None:  # nothing is known about the activations of other models
        tensors[f"activations of {images} images"] = images * activation_bytes_per_image(
            architecture(config.model),
            config.data.image_size,
            config.train.precision,
            recompute=config.train.recompute,
        )
    if on_gpu:
        return tensors | {LIBRARIES: _GPU_LIBRARIES}
    tensors = {what: local_replicas * size for what, size in tensors.items()}
    return tensors | {
        "gaps between tensors": int(_GAPS * sum(tensors.values())),
        "graphs and compiled code": _code_bytes(config, images // parallel_parts),
        LIBRARIES: _LIBRARIES,
    }


def _code_bytes(config: Config, images: int) -> int:
    """Memory of the graphs for training and input, and of code compiled for parts of this size."""
    augments = config.data.augment.rand_augment_layers > 0
    if config.model.builder is not None:
        return _GRAPHS + augments * _RAND_AUGMENT
    arch = architecture(config.model)
    largest = images * arch.num_tokens(config.data.image_size) * max(arch.width, arch.mlp_dim)
    compiles = largest >= MIN_COMPILED_SIZE and config.train.xla != "never"
    graphs = _GRAPHS + arch.depth * _GRAPH_PER_BLOCK
    return graphs + compiles * _COMPILED + augments * _RAND_AUGMENT
