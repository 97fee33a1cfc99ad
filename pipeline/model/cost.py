"""What a model costs in memory, in closed form: weights and activations.

Letters as in `functions`: N patches, T tokens, D width, n heads of size d, M units of the MLP.
"""

from __future__ import annotations

import math
from itertools import pairwise

import keras

from pipeline.model.architecture import Architecture
from pipeline.model.stem import stem_channels


def count_parameters(model: keras.Model) -> int:
    """Numbers in the variables, frozen ones too."""
    return sum(math.prod(variable.shape) for variable in model.variables)


def count_trained(model: keras.Model) -> int:
    """Numbers in the variables that are not frozen."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def parameters(arch: Architecture, image_size: int, num_classes: int) -> int:
    """Numbers in the variables of a model that need not be built."""
    return sum(variable_sizes(arch, image_size, num_classes).values())


def variable_sizes(arch: Architecture, image_size: int, num_classes: int) -> dict[str, int]:
    """Numbers in each variable, by path, of a model that need not be built.

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
    for place, (inputs, outputs) in zip(head_places(arch), pairwise(units), strict=True):
        linear(place, inputs, outputs)
    return sizes


def activation_bytes_per_image(
    arch: Architecture, image_size: int, dtype: str, *, recompute: bool = False
) -> int:
    """Estimate of the memory that one image takes when the backward pass needs most.

    Counted is what the gradients of this model's operations read, in numbers a token:

        a block    2 x (input, output) of a norm                             4 D
                   query, key, value by heads; result, and merged            5 n d
                   probabilities                                             n T
                   GELU: its input and its output                            2 M
        a stem's convolution, in numbers a place (H W / 4^i of them):
                   what it gives, and its norm's ReLU                        2 C_i
        and where dropout is on, the masks (a byte each) and what they leave.

    Added is what the last block's gradients take, the larger of two:

        the MLP's        M + 2 D
        attention's      2 n T (float32), 3 n d and D; by then 2 M + 2 D of the block are freed

    With `recompute` a block keeps its input, D, until it is computed again. Afterwards TensorFlow
    on a CPU leaves the gradients of its biases to the end, and keeps what they are sums of: 2 D +
    n d + M. Weights, their gradients and the optimizer's moments are not counted.

    Args:
      dtype: Keras dtype policy.
      recompute: Of the blocks but the last, the input alone is kept.
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
    """Units of the head's input, of its layers and of its output."""
    first = arch.width * (tokens if arch.pool == "flatten" else 1)
    hidden = [*arch.head_dims, *([arch.pre_logits] if arch.pre_logits else [])]
    return [first, *hidden, num_classes]


def head_places(arch: Architecture) -> list[str]:
    """Paths of the head's layers, the classifier last."""
    places = [f"vit/head_{i}" for i in range(len(arch.head_dims))]
    return [*places, *(["vit/pre_logits"] if arch.pre_logits else []), "vit/head"]
