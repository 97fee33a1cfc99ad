"""Files in the layouts of published ViTs, made from random numbers.

The names and shapes are those of the libraries: google-research/vision_transformer, transformers,
timm. The network is small: width 12, 2 blocks of 3 heads, MLP of 20, patches of 4.
"""

import json

import numpy as np
from safetensors.numpy import save_file

WIDTH, DEPTH, HEADS, MLP, PATCH, CLASSES = 12, 2, 3, 20, 4, 5
SIZE = WIDTH // HEADS
MODEL = {
    "variant": "Ti/4", "width": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_dim": MLP,
    "pool": "token",
}  # fmt: skip


def draw(shapes, seed=0):
    """Random numbers for each name. Scales of norms are near one, so that none vanishes."""
    rng = np.random.default_rng(seed)
    return {
        name: np.float32(
            0.3 * rng.normal(size=shape)
            + (name.endswith("scale") or ("norm" in name and name.endswith("weight")))
        )
        for name, shape in shapes.items()
    }


def google(grid=2, token=True, patch=PATCH, classes=CLASSES, pre_logits=0, depth=DEPTH):
    shapes = {
        "embedding/kernel": (patch, patch, 3, WIDTH),
        "embedding/bias": (WIDTH,),
        "Transformer/posembed_input/pos_embedding": (1, grid**2 + token, WIDTH),
        "Transformer/encoder_norm/scale": (WIDTH,),
        "Transformer/encoder_norm/bias": (WIDTH,),
        "head/kernel": (pre_logits or WIDTH, classes),
        "head/bias": (classes,),
    }
    if token:
        shapes["cls"] = (1, 1, WIDTH)
    if pre_logits:
        shapes |= {"pre_logits/kernel": (WIDTH, pre_logits), "pre_logits/bias": (pre_logits,)}
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/{part}": (WIDTH,) for part in ("scale", "bias")}
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes[f"{attention}/{part}/kernel"] = (WIDTH, HEADS, SIZE)
            shapes[f"{attention}/{part}/bias"] = (HEADS, SIZE)
        shapes |= {
            f"{attention}/out/kernel": (HEADS, SIZE, WIDTH),
            f"{attention}/out/bias": (WIDTH,),
            f"{block}/MlpBlock_3/Dense_0/kernel": (WIDTH, MLP),
            f"{block}/MlpBlock_3/Dense_0/bias": (MLP,),
            f"{block}/MlpBlock_3/Dense_1/kernel": (MLP, WIDTH),
            f"{block}/MlpBlock_3/Dense_1/bias": (WIDTH,),
        }
    return draw(shapes)


def linear(name, inputs, outputs):
    """A torch.nn.Linear."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name):
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def hugging_face(grid=2, head=True):
    shapes = {
        "vit.embeddings.cls_token": (1, 1, WIDTH),
        "vit.embeddings.position_embeddings": (1, grid**2 + 1, WIDTH),
        "vit.embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "vit.embeddings.patch_embeddings.projection.bias": (WIDTH,),
        **norm("vit.layernorm"),
    }
    for i in range(DEPTH):
        block = f"vit.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            shapes |= linear(f"{block}.attention.attention.{part}", WIDTH, WIDTH)
        shapes |= linear(f"{block}.attention.output.dense", WIDTH, WIDTH)
        shapes |= linear(f"{block}.intermediate.dense", WIDTH, MLP)
        shapes |= linear(f"{block}.output.dense", MLP, WIDTH)
        shapes |= norm(f"{block}.layernorm_before") | norm(f"{block}.layernorm_after")
    if head:
        return draw(shapes | linear("classifier", WIDTH, CLASSES))
    # ViTModel's own names, and its pooler.
    pooler = linear("vit.pooler.dense", WIDTH, WIDTH)
    return {name.removeprefix("vit."): array for name, array in draw(shapes | pooler).items()}


HUGGING_FACE_CONFIG = {
    "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_act": "gelu",
    "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
    "intermediate_size": MLP, "patch_size": PATCH, "image_size": 8, "layer_norm_eps": 1e-12,
}  # fmt: skip


def timm(grid=2, norm_name="norm"):
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, grid**2 + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        **norm(norm_name),
        **linear("head", WIDTH, CLASSES),
    }
    for i in range(DEPTH):
        block = f"blocks.{i}"
        shapes |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        shapes |= linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH)
        shapes |= linear(f"{block}.attn.proj", WIDTH, WIDTH)
        shapes |= linear(f"{block}.mlp.fc1", WIDTH, MLP) | linear(f"{block}.mlp.fc2", MLP, WIDTH)
    return draw(shapes)


def save(file, arrays, **config):
    """Writes tensors in the format of the extension, and config.json."""
    if file.suffix == ".npz":
        np.savez(file, **arrays)
    else:
        save_file(arrays, file)
    if config:
        (file.parent / "config.json").write_text(json.dumps(config))
    return file
