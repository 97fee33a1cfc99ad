"""Attention maps of a trained model, for display."""

from __future__ import annotations

from keras import ops

from pipeline.model.attention import attention_probabilities, split_heads
from pipeline.model.backend import Tensor
from pipeline.model.vit import VisionTransformer


def last_block_attention(model: VisionTransformer, images: Tensor) -> Tensor:
    """Computes the attention probabilities of the last block: [B, H, W, 3] -> [B, n, T, T].

    Row i of a head holds the weights with which token i averages the values; it sums to one. The
    class token, if any, is row and column 0. Figure 7 of Dosovitskiy et al. 2021 shows its row.
    """
    x = model.patch_embedding(images)
    if model.class_token is not None:
        x = model.class_token(x)
    x = model.position_embedding(x, None)
    for block in model.blocks[:-1]:
        x = block(x, None)
    attention = model.blocks[-1].attention
    x = model.blocks[-1].attention_norm(x)
    query, key = (
        split_heads(layer(x), attention.num_heads) for layer in (attention.query, attention.key)
    )
    query = query * attention.head_size**-0.5
    return ops.cast(attention_probabilities(query, key), "float32")
