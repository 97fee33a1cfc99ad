"""Closed-form counts of parameters and activation memory.

Shape letters are defined in `functions`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import keras

from pipeline.model.architecture import Architecture
from pipeline.model.stem import stem_channels


def count_parameters(model: keras.Model) -> int:
    """Counts the parameters of a model, including frozen ones."""
    return sum(math.prod(variable.shape) for variable in model.variables)


def count_trainable(model: keras.Model) -> int:
    """Counts the trainable parameters of a model."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def parameters(arch: Architecture, image_size: int, num_classes: int) -> int:
    """Counts the parameters without building the model."""
    return sum(variable_sizes(arch, image_size, num_classes).values())


def variable_sizes(arch: Architecture, image_size: int, num_classes: int) -> dict[str, int]:
    """The number of parameters in each variable, by path, without building the model.

    patches    (3 P P + 1) D, and learned positions T D, and a class token D
    or a stem  9 C_i C_(i+1) + 2 C_(i+1) for each convolution and its norm, and (C + 1) D
    a block    4 D n d + 3 n d + D    query, key, value, output
             + 2 D M + M + D          MLP
             + 4 D                    two norms
    norm       2 D
    head       (F_0 + 1) F_1 + ... + (F_k + 1) classes, as in `flops.flops_per_image`
    """
    tokens, width = arch.num_tokens(image_size), arch.width
    sizes: dict[str, int] = {}

    def linear(place: str, inputs: int, outputs: int) -> None:
        sizes.update({f"{place}/kernel": inputs * outputs, f"{place}/bias": outputs})

    def norm(place: str, units: int) -> None:
        sizes.update({f"{place}/gamma": units, f"{place}/beta": units})

    if arch.stem == "convolutions":
        channels = stem_channels(arch.patch_size, width)
        for i, (inputs, outputs) in enumerate(pairwise([3, *channels])):
            sizes[f"vit/patch_embedding/convolution_{i}/kernel"] = 9 * inputs * outputs
            norm(f"vit/patch_embedding/norm_{i}", outputs)
        linear("vit/patch_embedding/out", channels[-1], width)
    else:
        linear("vit/patch_embedding", 3 * arch.patch_size**2, width)
    if arch.pool == "token":
        sizes["vit/class_token/token"] = width
    if arch.positions == "learned":
        sizes["vit/position_embedding/positions"] = tokens * width
    for block in (f"vit/block_{i}" for i in range(arch.depth)):
        length = arch.num_heads * arch.head_size
        norm(f"{block}/attention_norm", width)
        for name in ("query", "key", "value"):
            linear(f"{block}/attention/{name}", width, length)
        linear(f"{block}/attention/out", length, width)
        norm(f"{block}/mlp_norm", width)
        linear(f"{block}/mlp/hidden", width, arch.mlp_dim)
        linear(f"{block}/mlp/out", arch.mlp_dim, width)
    norm("vit/norm", width)
    units = head_units(arch, tokens, num_classes)
    for place, (inputs, outputs) in zip(head_paths(arch), pairwise(units), strict=True):
        linear(place, inputs, outputs)
    return sizes


def activation_bytes_per_image(
    arch: Architecture, image_size: int, dtype: str, *, recompute: bool = False
) -> int:
    """Estimates the peak memory of the backward pass for one image.

    It counts the tensors that the gradients read. Elements per token:

        a block    inputs and outputs of two norms                           4 D
                   query, key, value by heads; result, and merged result     5 n d
                   probabilities                                             n T
                   input and output of GELU                                  2 M
        a stem's convolution, in elements per output position (H W / 4^i of them):
                   its output, and the ReLU output of its norm               2 C_i
        and where dropout is on, the masks (one byte each) and the outputs of dropout.

    The gradients of the last block come on top, the larger of:

        the MLP's          M + 2 D
        the attention's    2 n T (float32), 3 n d and D, minus 2 M + 2 D that are freed by then

    With `recompute`, a block stores only its input, D, until it is computed again. TensorFlow on a
    CPU then defers the bias gradients to the end and keeps the tensors they sum over: 2 D + n d +
    M. Weights, their gradients and the moments of the optimizer are not included.

    Args:
      arch: Shape of the network.
      image_size: Height and width of the image in pixels.
      dtype: Name of a Keras dtype policy.
      recompute: Whether all blocks but the last store only their input.

    Returns:
      Bytes.
    """
    size = 4 if keras.DTypePolicy(dtype).compute_dtype == "float32" else 2
    tokens, length = arch.num_tokens(image_size), arch.num_heads * arch.head_size
    width, hidden, scores = arch.width, arch.mlp_dim, arch.num_heads * tokens
    block = (4 * width + 5 * length + 2 * hidden + scores) * size
    block += 2 * width * size if arch.mlp_activates_output else 0
    block += scores * (size + 1) if arch.attention_dropout else 0
    block += (hidden + width) * (size + 1) if arch.dropout else 0
    of_attention = 8 * scores + (3 * length + width - 2 * hidden - 2 * width) * size
    back = max((hidden + 2 * width) * size, of_attention)
    if recompute:
        waiting = (2 * width + length + hidden) * size
        blocks = block + back + (arch.depth - 1) * waiting
    else:
        blocks = arch.depth * block + back
    pixels = 3 * image_size**2 * size
    stem = 0
    if arch.stem == "convolutions":
        for number, channels in enumerate(stem_channels(arch.patch_size, width), start=1):
            stem += (image_size >> number) ** 2 * channels * 2 * size
    head = 8 * sum(head_units(arch, tokens, 0)) * size
    return int(tokens * blocks + stem + pixels + head)


def head_units(arch: Architecture, tokens: int, num_classes: int) -> list[int]:
    """The number of units of the head's input, of each hidden layer, and of its output."""
    first = arch.width * (tokens if arch.pool == "flatten" else 1)
    hidden = [*arch.head_dims, *([arch.pre_logits] if arch.pre_logits else [])]
    return [first, *hidden, num_classes]


def head_paths(arch: Architecture) -> list[str]:
    """Paths of the layers in the head, ending with the classifier."""
    places = [f"vit/head_{i}" for i in range(len(arch.head_dims))]
    return [*places, *(["vit/pre_logits"] if arch.pre_logits else []), "vit/head"]
