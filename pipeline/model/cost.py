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
    """Numbers in the variables of a model that need not be built.

    patches    (3 P P + 1) D, and learned positions T D, and a class token D
    or a stem  9 C_i C_(i+1) + 2 C_(i+1) for each convolution and its norm, and (C + 1) D
    a block    4 D n d + 3 n d + D    query, key, value, output
             + 2 D M + M + D          MLP
             + 4 D                    two norms
    norm       2 D
    head       (F_0 + 1) F_1 + ... + (F_k + 1) classes, as in `flops.flops_per_image`
    """
    tokens = arch.num_tokens(image_size)
    length = arch.num_heads * arch.head_size
    width = arch.width
    embedding = (3 * arch.patch_size**2 + 1) * width
    if arch.stem == "convolutions":
        channels = stem_channels(arch.patch_size, width)
        embedding = sum(9 * i * o + 2 * o for i, o in pairwise([3, *channels]))
        embedding += (channels[-1] + 1) * width
    embedding += tokens * width if arch.positions == "learned" else 0
    embedding += width if arch.pool == "token" else 0
    attention = 4 * width * length + 3 * length + width
    mlp = 2 * width * arch.mlp_dim + arch.mlp_dim + width
    head = sum((i + 1) * o for i, o in pairwise(head_units(arch, tokens, num_classes)))
    return embedding + arch.depth * (attention + mlp + 4 * width) + 2 * width + head


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
