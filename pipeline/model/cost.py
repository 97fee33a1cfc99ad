"""What a model costs, in closed form: weights, arithmetic, and memory for activations.

Letters as in `functions`: N patches, T tokens, D width, n heads of size d, M units of the MLP.
"""

from __future__ import annotations

import math
from itertools import pairwise

import keras

from pipeline.model.vit import Architecture


def count_parameters(model: keras.Model) -> int:
    """Numbers in the variables, frozen ones too."""
    return sum(math.prod(variable.shape) for variable in model.variables)


def parameters(arch: Architecture, image_size: int, num_classes: int) -> int:
    """Numbers in the variables of a model that need not be built.

    patches    (3 P P + 1) D, and learned positions T D, and a class token D
    a block    4 D n d + 3 n d + D    query, key, value, output
             + 2 D M + M + D          MLP
             + 4 D                    two norms
    norm       2 D
    head       (F_0 + 1) F_1 + ... + (F_k + 1) classes, as in `flops_per_image`
    """
    tokens = arch.num_tokens(image_size)
    length = arch.num_heads * arch.head_size
    width = arch.width
    embedding = (3 * arch.patch_size**2 + 1) * width
    embedding += tokens * width if arch.positions == "learned" else 0
    embedding += width if arch.pool == "token" else 0
    attention = 4 * width * length + 3 * length + width
    mlp = 2 * width * arch.mlp_dim + arch.mlp_dim + width
    head = sum((i + 1) * o for i, o in pairwise(_head_units(arch, tokens, num_classes)))
    return embedding + arch.depth * (attention + mlp + 4 * width) + 2 * width + head


def flops_per_image(arch: Architecture, image_size: int, num_classes: int) -> float:
    """Operations of a forward pass on one image: two for each multiply-add of a matrix product.

        patches    N (3 P P) D
        a block    T (4 D n d)     query, key, value, output
                 + 2 T T n d       scores and their products with the values
                 + 2 T D M         MLP
        head       F_0 F_1 + F_1 F_2 + ... + F_k classes

    where F_0 is D, or T D with pool=flatten. Norms, softmax, GELU and additions are left out: they
    cost memory traffic, not arithmetic. A training step is three times as much.
    """
    patches = (image_size // arch.patch_size) ** 2
    tokens = arch.num_tokens(image_size)
    length = arch.num_heads * arch.head_size
    embedding = patches * 3 * arch.patch_size**2 * arch.width
    projections = tokens * 4 * arch.width * length
    products = 2 * tokens * tokens * length
    mlp = 2 * tokens * arch.width * arch.mlp_dim
    units = _head_units(arch, tokens, num_classes)
    head = sum(i * o for i, o in pairwise(units))
    return 2.0 * (embedding + arch.depth * (projections + products + mlp) + head)


def activation_bytes_per_image(arch: Architecture, image_size: int, dtype: str) -> int:
    """Estimate of what one image leaves in memory for the backward pass.

    Counted is what TensorFlow's gradients of this model's operations read, in numbers a token:

        a block    2 x (input, centred input, scale, output) of a norm       8 D
                   query, key, value by heads; merged output                 5 n d
                   probabilities, float32                                    n T
                   GELU: its factors and its output                          4 M, tanh form 5 M
        and in place of a second copy: with mixed precision the probabilities once more, as rounded;
        where dropout is on, the masks (a byte each) and what they leave.

    The norms' and the softmax's inner numbers are float32 under every dtype. Added is what one
    block's gradients take on the way back. Weights, their gradients, the optimizer's moments and
    the framework's own few hundred megabytes are not counted. Against the growth of a process's
    peak memory with the batch, on the CPU, the estimate was 4 to 28 % too high (keras_example,
    cifar, Ti/16 and digits; float32 and mixed_bfloat16).

    Args:
      dtype: Keras dtype policy.
    """
    wide, narrow = 4, keras.DTypePolicy(dtype).compute_dtype
    size = 4 if narrow == "float32" else 2
    tokens = arch.num_tokens(image_size)
    length = arch.num_heads * arch.head_size
    norms = arch.width * 2 * (2 * wide + 2 * size)
    qkv = 5 * length * size
    probability = wide + (size if size < wide else 0)
    probability += (size + 1) if arch.attention_dropout else 0
    gelu = arch.mlp_dim * (4 if arch.gelu == "exact" else 5) * size
    if arch.mlp_activates_output:
        gelu += arch.width * 4 * size
    masks = (arch.mlp_dim + arch.width) * (size + 1) if arch.dropout else 0
    block = tokens * (norms + qkv + arch.num_heads * tokens * probability + gelu + masks)
    pixels = 3 * image_size**2 * size
    head = 8 * sum(_head_units(arch, tokens, 0)) * size
    return int((arch.depth + 1) * block + pixels + head)


def _head_units(arch: Architecture, tokens: int, num_classes: int) -> list[int]:
    """Units of the head's input, of its layers and of its output."""
    first = arch.width * (tokens if arch.pool == "flatten" else 1)
    hidden = [*arch.head_dims, *([arch.pre_logits] if arch.pre_logits else [])]
    return [first, *hidden, num_classes]
