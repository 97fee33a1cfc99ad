"""What the last block looks at."""

from __future__ import annotations

from keras import ops

from pipeline.model.attend import attention_probabilities, split_heads
from pipeline.model.backend import Tensor
from pipeline.model.vit import VisionTransformer


def last_attention(model: VisionTransformer, images: Tensor) -> Tensor:
    """Attention's probabilities in the last block: images [B, H, W, 3] to [B, n, T, T].

    Row i of a head says from which tokens token i takes its values; it sums to one. With a class
    token that is row and column 0 (Dosovitskiy et al. 2021, figure 7, show its row).
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
